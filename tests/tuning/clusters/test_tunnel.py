"""SSH to a head, with a real sshd on loopback: commands, and tunnels that leave nothing."""

from __future__ import annotations

import getpass
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import free_ports

from trainables.errors import InputError, RunFailed
from tuning.clusters.cluster_file import ClusterFile
from tuning.clusters.tunnel import find_mlflow, keep_password, open_tunnel, run_on_head, ssh_command

SSHD = "/usr/sbin/sshd"
pytestmark = [
    pytest.mark.skipif(
        not Path(SSHD).exists() or shutil.which("ssh") is None, reason="needs openssh-server"
    ),
    pytest.mark.timeout(60),
]


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterFile]:
    """A cluster whose head is this machine, by an sshd of our own that takes one key."""
    folder = tmp_path_factory.mktemp("sshd")
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(folder))  # where host keys are remembered
    key, host_key = make_key(folder / "key"), make_key(folder / "host_key")
    shutil.copy(f"{key}.pub", folder / "authorized_keys")
    Path("/run/sshd").mkdir(exist_ok=True) if os.geteuid() == 0 else None
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [
            SSHD, "-D", "-e", "-f", "/dev/null", "-p", str(port), "-h", str(host_key),
            "-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none", "-o", "UsePAM=no",
            "-o", f"AuthorizedKeysFile={folder / 'authorized_keys'}", "-o", "StrictModes=no",
            "-o", "PasswordAuthentication=no",
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    proxy = f"{sys.executable} -c '{PROXY}' {port}"
    auth = {"ssh_user": getpass.getuser(), "ssh_private_key": str(key), "ssh_proxy_command": proxy}
    provider = {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}
    found = ClusterFile(folder / "c.yaml", "test", provider, auth)
    until = time.monotonic() + 10
    while subprocess.run([*ssh_command(found), "true"], capture_output=True).returncode != 0:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.1)
    yield found
    patch.undo()
    process.kill()
    process.wait()


# To a port that is not SSH's, as cluster files have no place for one: bytes from here to there.
PROXY = (
    "import os,select,socket,sys\n"
    's=socket.create_connection(("127.0.0.1",int(sys.argv[1])))\n'
    "while True:\n"
    "    for f in select.select([0,s],[],[])[0]:\n"
    "        d=os.read(0,65536) if f==0 else s.recv(65536)\n"
    "        if not d: sys.exit()\n"
    "        s.sendall(d) if f==0 else os.write(1,d)\n"
)


@pytest.fixture
def web() -> Iterator[int]:
    """A web server on loopback, to be tunnelled; its port."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_a_command_says_what_it_prints_there(cluster):
    assert run_on_head(cluster, "echo hello") == "hello\n"
    with pytest.raises(RunFailed, match="failed there: oh no"):
        run_on_head(cluster, "echo oh no >&2; exit 3")


def test_a_head_that_is_not_there_is_said_so(cluster, free_port):
    gone = ClusterFile(
        cluster.path, "gone", cluster.provider,
        {**cluster.auth, "ssh_proxy_command": f"nc -w 1 127.0.0.1 {free_port}"},
    )  # fmt: skip
    with pytest.raises(RunFailed, match="can not be reached by SSH"):
        run_on_head(gone, "true")
    with pytest.raises(RunFailed, match="can not be reached by SSH"), open_tunnel(gone):
        pass


def test_a_tunnel_carries_and_then_nothing_is_left(cluster, web):
    with open_tunnel(cluster, ("127.0.0.1", web)) as tunnel:
        with urllib.request.urlopen(tunnel.url, timeout=10) as answer:
            assert answer.status == 200
        process = tunnel.process
    assert process.poll() is not None
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(tunnel.url, timeout=10)


def test_another_machine_at_the_same_address_is_refused(cluster, tmp_path, monkeypatch):
    """Its key was remembered; whoever is there now would get the token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    remembered = tmp_path / ".thaw" / "clusters" / "test.known_hosts"
    remembered.parent.mkdir(parents=True)
    remembered.write_text(f"127.0.0.1 {other}")
    with pytest.raises(RunFailed, match="REMOTE HOST IDENTIFICATION HAS CHANGED"):
        run_on_head(cluster, "true")


def test_a_port_in_use_is_an_input_error(cluster, web):
    with (
        pytest.raises(InputError, match=f"--port = {web}: is in use"),
        open_tunnel(cluster, port=web),
    ):
        pass


def test_a_tunnel_ends_with_us_even_if_we_are_killed(cluster, web, tmp_path):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tuning.clusters.cluster_file import ClusterFile\n"
        "from tuning.clusters.tunnel import open_tunnel\n"
        f"provider, auth = {dict(cluster.provider)!r}, {dict(cluster.auth)!r}\n"
        "cluster = ClusterFile(Path('c'), 'test', provider, auth)\n"
        f"with open_tunnel(cluster, ('127.0.0.1', {web})) as tunnel:\n"
        "    print(tunnel.process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    ours = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert ours.stdout is not None
    ssh = int(ours.stdout.readline())
    assert is_alive(ssh)
    ours.send_signal(signal.SIGKILL)
    ours.wait()
    until = time.monotonic() + 10
    while is_alive(ssh):
        assert time.monotonic() < until, "ssh is left behind"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_mlflow_is_found_and_its_password_kept_private(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    says = (
        "THAW_HEAD_IP=10.0.0.1\nMLFLOW_TRACKING_URI=http://10.0.0.1:5000\n"
        "MLFLOW_TRACKING_USERNAME=thaw\nMLFLOW_TRACKING_PASSWORD=secret\n"
    )
    monkeypatch.setattr("tuning.clusters.tunnel.run_on_head", lambda cluster, command: says)
    mlflow = find_mlflow(cluster)
    assert (mlflow.host, mlflow.port, mlflow.user) == ("10.0.0.1", 5000, "thaw")
    path = keep_password(cluster, mlflow)
    assert path.read_text() == "secret\n"
    assert path.stat().st_mode & 0o777 == 0o600
