"""A cluster of machines that one has, for real: from `ray up` to `ray down`, with faults between.

    python tests/lab/end_to_end.py            as root; about twelve minutes on two cores

A head and two workers, simulated on this machine (hosts.py), are set up by clusters/local.yaml with
nothing changed but addresses, user and key. Each step prints what it sees and the seconds since the
beginning, and ends everything with exit code 1 if that is not what it should be. ``end_to_end.txt``
beside this file is what it printed once.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import hosts
from hosts import HOME, KEY, ROOT, Host
from PIL import Image
from sklearn.datasets import load_digits
from steps import BASHRC, CLUSTER, call, dashboard, say, until

SPACE = Path(__file__).with_name("lab_space.py")
BIN = Path(sys.executable).parent
SWEEP, N_TRIALS = "lab", 9
SWEEPS = "/home/thaw/sweeps"
UI_PORT = 5055


def write_cluster_file(head: Host, workers: list[Host]) -> None:
    """clusters/local.yaml with what is a user's own changed, line by line."""
    text = (ROOT / "clusters" / "local.yaml").read_text()
    for pattern, value in (
        (r"head_ip: \S+", f"head_ip: {head.address}"),
        (r"worker_ips: \[.*?\]", f"worker_ips: [{', '.join(w.address for w in workers)}]"),
        (r"ssh_user: \S+", "ssh_user: root"),
        (r"ssh_private_key: \S+", f"ssh_private_key: {KEY}"),
    ):
        text, n_changed = re.subn(rf"(?m)^(\s+){pattern}", rf"\g<1>{value}", text)
        assert n_changed == 1, pattern
    CLUSTER.write_text(text)


def bring_up(head: Host, workers: list[Host]) -> None:
    write_cluster_file(head, workers)
    call("thaw", "doctor", "--mend", check=False)
    token = HOME / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    say("thaw doctor --mend: made the token, mode 600")
    began = time.monotonic()
    output = call("ray", "up", "-y", str(CLUSTER), seconds=590)
    assert token.read_text() not in output
    say(f"ray up: {time.monotonic() - began:.0f} s")
    began = time.monotonic()
    document = until(doctor_is_well, 300, "all nodes, and well")
    say(f"thaw doctor --cluster: all is well {time.monotonic() - began:.0f} s later:")
    show_findings(document)
    began = time.monotonic()
    call("ray", "up", "-y", "--no-restart", str(CLUSTER))
    say(f"a second ray up, with --no-restart: {time.monotonic() - began:.0f} s")
    began = time.monotonic()
    output = call("ray", "up", "-y", str(CLUSTER))
    assert "up to date" in output, output
    say(f"a third, which restarts Ray: {time.monotonic() - began:.0f} s")
    began = time.monotonic()
    until(doctor_is_well, 300, "all nodes again, and well")
    say(f"all is well again {time.monotonic() - began:.0f} s later")


def doctor_is_well() -> dict[str, Any] | None:
    output = call("thaw", "doctor", "--cluster", str(CLUSTER), "--json", seconds=590, check=False)
    try:
        document = json.loads(output[output.index("{") :])
    except ValueError:
        say(f"thaw doctor: {output[-500:]}")
        return None
    if not document["well"]:
        for finding in document["findings"]:
            if finding["state"] == "wrong":
                where = finding["node"] or "the cluster"
                say(f"  not yet: {finding['check']}: {where}: {finding['what'][:200]}")
        return None
    return document


def show_findings(document: dict[str, Any]) -> None:
    for finding in document["findings"]:
        node = f"{finding['node']}: " if finding["node"] else ""
        print(f"            {finding['state']:<8} {finding['check']:<9} {node}{finding['what']}")


def refuse_strangers(head: Host, worker: Host) -> None:
    """A job without a token, and with a wrong one, by Ray's own command and from another host."""
    with dashboard() as url:
        command = ["ray", "job", "submit", "--no-wait", "--address", url, "--", "true"]
        for kind, environment in (
            ("without a token", {"RAY_AUTH_MODE": "disabled"}),
            ("with a wrong token", {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guess"}),
        ):
            output = call(*command, check=False, **environment)
            assert "submitted successfully" not in output, output
            refusal = re.search(r"(Unauthorized|Forbidden): .*|Authentication .*", output)
            assert refusal, output
            say(f"ray job submit {kind}: {refusal[0].strip()}")
    agent = f"http://{head.address}:52365/api/job_agent/jobs/"
    for kind, header in (("without a token", ""), ("with a wrong one", "Bearer guess")):
        status = worker.run(
            "curl -s -o /dev/null -w '%{http_code}' -X POST -H 'Content-Type: application/json' "
            f'-H {shlex.quote(f"Authorization: {header}")} -d \'{{"entrypoint": "true"}}\' {agent}'
        )
        assert status in ("401", "403"), status
        say(f"a worker host posts a job to the head's agent {kind}: {status}")


# On another host: the ports of an address that are open, and what each says to who has no token.
_SCAN = """
import concurrent.futures, http.client, json, socket, sys
def is_open(port):
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((sys.argv[1], port)) == 0
def answer(port):
    try:
        connection = http.client.HTTPConnection(sys.argv[1], port, timeout=5)
        connection.request("GET", "/api/jobs/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
with concurrent.futures.ThreadPoolExecutor(64) as pool:
    ports = range(1, 65536)
    found = [port for port, is_open in zip(ports, pool.map(is_open, ports)) if is_open]
print(json.dumps({port: answer(port) for port in found}))
"""

# On the host itself: who listens on which port of which addresses.
_SOCKETS = """
import json
import ray  # which brings psutil
import psutil
found = {}
for each in psutil.net_connections("tcp"):
    if each.status == "LISTEN":
        words = psutil.Process(each.pid).cmdline()[:4]
        found.setdefault(each.laddr.port, ([], " ".join(words)))[0].append(each.laddr.ip)
print(json.dumps(found))
"""

# What may be behind an open port: by its number, else by a word of its process's command line.
SERVICES: dict[int | str, str] = {
    22: "SSH",
    5000: "MLflow",
    6379: "Ray: GCS",
    8265: "Ray: dashboard",
    10001: "Ray: client server",
    44217: "Ray: autoscaler's metrics",
    44227: "Ray: dashboard's metrics",
    52365: "Ray: agent, takes jobs",
    "/raylet/raylet": "Ray: raylet",
    "ray::DashboardAgent": "Ray: agent",
    "ray::RuntimeEnvAgent": "Ray: agent of environments",
    "ray::": "Ray: worker",
}
METRICS = ("Ray: agent", "Ray: autoscaler's metrics", "Ray: dashboard's metrics")


def scan_ports(head: Host, worker: Host) -> None:
    """What another host can reach of the head, what it is, and what it says without a token."""
    python = "~/.thaw/venv/bin/python"
    found = json.loads(worker.run(f"{python} -c {shlex.quote(_SCAN)} {head.address}", 300))
    bound = json.loads(head.run(f"{python} -c {shlex.quote(_SOCKETS)}"))
    say(f"port scan of the head from a worker: {len(found)} of 65535 open to it")
    for port in sorted(bound.keys() | found.keys(), key=int):
        addresses, line = bound.get(port, ([], "?"))
        service = SERVICES.get(int(port)) or next(
            (name for word, name in SERVICES.items() if isinstance(word, str) and word in line),
            None,
        )
        status = found.get(port)
        answer = "closed to other hosts" if port not in found else "open"
        if status is not None:
            answer += f", GET answers {status} without a token"
        shown = ", ".join(sorted(addresses))
        print(f"            {port:>6}  {service or line[:50]:<27} {shown:<28} {answer}")
        if port in found:
            assert service, f"port {port} is open, and nobody knows what it is: {line}"
            assert status != 200 or service in METRICS, f"{service} answers without a token"
    assert "8265" in bound and "8265" not in found, "the dashboard is to be on loopback alone"  # noqa: PT018


class Sweep:
    """The sweep on the cluster, seen through its record on the head."""

    def __init__(self, head: Host) -> None:
        self._head = head

    def job(self, *command: str) -> str:
        """Run a command of Thaw on the cluster to its end, as Ray's own job."""
        with dashboard() as url:
            return call(
                "ray", "job", "submit", "--address", url, "--", *command,
                RAY_AUTH_MODE="token", seconds=590,
            )  # fmt: skip

    def start(self) -> None:
        options = [
            "--name", SWEEP, "--sweeps-folder", SWEEPS, "--trials", str(N_TRIALS),
            "--cpus-per-trial", "2", "--metric", "value:max", "--searcher", "random",
            "--scheduler", "none",
        ]  # fmt: skip
        call("thaw", "submit", str(SPACE), *options, "--cluster", str(CLUSTER))

    def events(self) -> list[dict[str, Any]]:
        text = self._head.run(f"cat {SWEEPS}/{SWEEP}/events.jsonl", check=False)
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def epochs(self, host: int | None = None) -> int:
        """How many epochs have been reported, by trials on one host or on any."""
        return sum(
            event["event"] == "epoch" and (host is None or event["metrics"]["host"] == host)
            for event in self.events()
        )

    def driver(self) -> int | None:
        """The process of `thaw sweep` or `thaw resume` that the job on the head has started."""
        found = self._head.run(r"pgrep -f 'console\(\) (sweep|resume) '", check=False).split()
        return int(found[0]) if found else None

    def summary(self) -> dict[str, Any]:
        thaw = ". ~/thaw/clusters/node_env.sh; thaw trials"
        rows = json.loads(self._head.run(f"{thaw} {SWEEP} --sweeps-folder {SWEEPS} --json"))
        return {"states": [row["state"] for row in rows], "epochs": [row["epochs"] for row in rows]}


def train_across_hosts(everyone: list[Host]) -> None:
    """Trials of two workers on two hosts each, with images that are sent along."""
    data = HOME / "scans"
    for number, (scan, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        if number < 200:
            (data / str(label)).mkdir(parents=True, exist_ok=True)
            pixels = Image.fromarray((scan.reshape(8, 8) * 15.9).astype("uint8"))
            pixels.save(data / str(label) / f"{number}.png")
    settings = {
        "data": data, "model": "squeezenet1_1", "image_size": 32, "epochs": 2, "freezing": "none",
        "batch_size": 32, "augmentation": "none",
    }  # fmt: skip
    options = ["--name", "scans", "--trials", "2", "--workers", "2", "--cpus-per-trial", "2"]
    options += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    of_cluster = ("--cluster", str(CLUSTER))
    call("thaw", "submit", "image_folder", *options, "--scheduler", "none", *of_cluster)
    say("thaw submit --workers 2: a sweep over 200 images, which go with it")

    def hosts_with_workers() -> list[str]:
        look = "pgrep -f '[r]ay::RayTrainWorker' || true"
        return [host.name for host in everyone if host.run(look).strip()]

    found = until(lambda: len(hosts_with_workers()) == 2 and hosts_with_workers(), 300, "two hosts")
    say(f"the workers of a trial are on {' and '.join(found)}")

    def ended() -> dict[str, Any] | None:
        output = call("thaw", "status", "scans", *of_cluster, "--json")
        document: dict[str, Any] = json.loads(output[output.index("{") :])
        return document if document["state"] != "running" else None

    document = until(ended, 400, "the sweep's end")
    assert document["state"] == "done", document
    call("thaw", "fetch", "scans", "--to", str(HOME / "scans-fetched"), *of_cluster)
    (checkpoint,) = (HOME / "scans-fetched").rglob("model.safetensors")
    shown = call("thaw", "predict", str(checkpoint.parent), str(data / "3" / "3.png"), "--json")
    label = json.loads(shown[shown.index("[") :])[0]["label"]
    say(f"done; the best checkpoint was fetched, and predicts (a scan of 3: {label})")
    until(lambda: not hosts_with_workers(), 60, "an end of the workers")


def lose_a_host(sweep: Sweep, victim: Host) -> int:
    """Cut a host off in the midst of a trial; which one."""
    number = int(victim.address.rpartition(".")[2])
    until(lambda: sweep.epochs(number) >= 3, 300, f"three epochs on {victim.name}")
    before = sweep.epochs()
    victim.power_off()
    say(f"{victim.name} is powered off, with a trial in its midst; {before} epochs so far")
    began = time.monotonic()
    lost = until(
        lambda: [e for e in sweep.events() if e["event"] == "trial_retried"], 300, "a retried trial"
    )
    trial = int(lost[0]["trial"])
    say(f"{time.monotonic() - began:.0f} s later trial {trial} was given to another host")
    return trial


def lose_mlflow(head: Host) -> None:
    find = "pgrep -f 'mlflow server'"
    server = int(head.run(find).split()[0])
    head.run(f"kill -9 {server}")
    began = time.monotonic()
    status = ". ~/thaw/clusters/node_env.sh && python ~/thaw/clusters/mlflow_server.py status"
    until(lambda: "http" not in head.run(status, check=False), 60, "MLflow seen to be down")
    until(lambda: "http" in head.run(status, check=False), 300, "MLflow back")
    seconds = time.monotonic() - began
    say(f"MLflow on the head was killed (kill -9), and answered again {seconds:.0f} s later")


def lose_the_driver(head: Host, sweep: Sweep) -> None:
    driver = sweep.driver()
    assert driver is not None
    head.run(f"kill -9 {driver}")
    until(lambda: sweep.driver() is None, 60, "the driver's end")
    done = sweep.epochs()
    say(f"the sweep's driver was killed (kill -9) after {done} epochs")
    began = time.monotonic()
    until(lambda: sweep.epochs() > done, 300, "the resumed sweep's first epoch")
    say(f"resumed by itself: its next epoch came {time.monotonic() - began:.0f} s later")


def finish(sweep: Sweep, lost: int) -> None:
    """Wait for the sweep's end. ``lost`` is the trial that a host was lost with."""
    until(lambda: any(e["event"] == "sweep_ended" for e in sweep.events()), 590, "the sweep's end")
    summary = sweep.summary()
    assert summary["states"] == ["completed"] * N_TRIALS, summary
    assert summary["epochs"] == [8] * N_TRIALS, summary
    say(f"the sweep is complete: {N_TRIALS} trials, 8 epochs each")
    resumed = max(
        event["metrics"]["resumed_after"]
        for event in sweep.events()
        if event["event"] == "epoch" and event["trial"] == lost
    )
    assert resumed >= 1, "it began anew: its checkpoint was lost with its host"
    say(f"trial {lost} went on elsewhere after epoch {resumed:g}; the hosts share no disk")


def bring_home() -> None:
    """`thaw status` and `thaw fetch`: what of the sweep comes to the user's own machine."""
    of_cluster = ("--cluster", str(CLUSTER), "--json")

    def status() -> dict[str, Any]:
        output = call("thaw", "status", SWEEP, *of_cluster)
        document: dict[str, Any] = json.loads(output[output.index("{") :])
        return document

    until(lambda: status()["state"] != "running", 120, "the job's end")
    found_there = status()
    assert (found_there["state"], found_there["driver_restarts"]) == ("done", 1), found_there
    say("thaw status: done; its driver was restarted once")
    call("thaw", "fetch", SWEEP, "--to", str(HOME / "fetched"), *of_cluster)
    found = [path.relative_to(HOME) for path in (HOME / "fetched").rglob("state.json")]
    assert len(found) == 1, found
    say(f"thaw fetch: the best checkpoint is here, {found[0]}")


def retrain(sweep: Sweep) -> None:
    output = sweep.job("thaw", "retrain", SWEEP, "--sweeps-folder", SWEEPS)
    assert "champion" in output, output
    champion = next(line for line in output.splitlines() if line.startswith("champion "))
    say(f"thaw retrain, as a job: {champion.strip()}")


def look_at_mlflow(sweep: Sweep) -> None:
    """The runs of the sweep by the tunnel that `thaw ui --cluster` opens, and after it nothing."""
    command = ["thaw", "ui", "--cluster", str(CLUSTER), "--port", str(UI_PORT)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        assert f"127.0.0.1:{UI_PORT}" in first, first
        say(f"thaw ui --cluster: {first.strip().replace(str(HOME), '~')}")
        name, password = re.match(r"name (\S+), password in (\S+)", second).groups()  # type: ignore[union-attr]
        assert Path(password).stat().st_mode & 0o777 == 0o600
        runs = _runs(name, Path(password).read_text().strip())
        assert runs == N_TRIALS + 1, runs
        say(f"MLflow through the tunnel: {runs} runs, one per trial and the sweep's own")
        assert _refusal("experiments/search", {"max_results": 1}) == 401
        say("MLflow through the tunnel without a password: 401")
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
    assert code == 0, code
    left = call("pgrep", "-a", "ssh", check=False)
    assert str(UI_PORT) not in left, left
    say("Ctrl-C: the tunnel is closed, no ssh is left")


def _runs(name: str, password: str) -> int:
    login = base64.b64encode(f"{name}:{password}".encode()).decode()
    found = _ask("experiments/get-by-name?experiment_name=lab", None, login)
    query = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 100}
    runs = _ask("runs/search", query, login)["runs"]
    sweeps = [
        run for run in runs
        if {"key": "thaw.sweep", "value": f"{SWEEP}@{SWEEPS}/{SWEEP}"} in run["data"]["tags"]
        and "champion" not in str(run["data"]["tags"])
    ]  # fmt: skip
    return len(sweeps)


def _ask(path: str, body: Any, login: str | None) -> Any:
    headers = {"Content-Type": "application/json"}
    if login is not None:
        headers["Authorization"] = f"Basic {login}"
    data = None if body is None else json.dumps(body).encode()
    url = f"http://127.0.0.1:{UI_PORT}/api/2.0/mlflow/{path}"
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
        return json.load(answer)


def _refusal(path: str, body: Any) -> int:
    try:
        _ask(path, body, None)
    except urllib.error.HTTPError as refusal:
        return refusal.code
    return 200


# Where the token is on a host, beside its own file: in a file or on a command line.
_TOKEN_SEARCH = """
import os
from pathlib import Path
own = Path.home() / ".ray" / "auth_token"
token = own.read_bytes()
assert len(token) == 64
n_read = 0
for folder in ("/tmp", str(Path.home())):
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in names):
            if path == own or path.is_symlink() or not path.is_file():
                continue
            n_read += 1
            if token in path.read_bytes():
                print("found in", path)
for path in Path("/proc").glob("[0-9]*/cmdline"):
    try:
        if token in path.read_bytes():
            print("found in", path)
    except OSError:
        pass
print(n_read)
"""


def search_for_token(living: list[Host]) -> None:
    """The token is in its file, and nowhere else: no log, no artifact, no command line."""
    for host in living:
        said = host.run(f"~/.thaw/venv/bin/python -c {shlex.quote(_TOKEN_SEARCH)}", 300)
        assert "found" not in said, said
        say(f"{host.name}: the token is in none of {said.strip()} files of /tmp and home but its "
            "own, and on no command line")  # fmt: skip


def bring_down(living: list[Host]) -> None:
    began = time.monotonic()
    call("ray", "down", "-y", str(CLUSTER))
    say(f"ray down: {time.monotonic() - began:.0f} s")
    look = "pgrep -a 'raylet|gcs_server' ; pgrep -af 'ray::|mlflow|[d]ashboard/' ; true"

    def quiet() -> bool:
        return all(not _processes(host, look) for host in living)

    try:
        until(quiet, 240, "an end of all that was started")
    except AssertionError:
        for host in living:
            print(host.name, host.run(look))
        raise
    say(f"{time.monotonic() - began:.0f} s after it: nothing of Ray or MLflow runs on any host")
    left = call("pgrep", "-a", "ssh", check=False)
    until(lambda: not call("pgrep", "-a", "-x", "ssh", check=False), 30, f"the end of {left}")
    say("no ssh runs on this machine")


def _processes(host: Host, look: str) -> list[str]:
    return [line for line in host.run(look).splitlines() if "pgrep" not in line]


def main() -> int:
    # Where this was started with Ctrl-C ignored, so would be what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with hosts.hosts(["head", "worker1", "worker2"], BASHRC) as made:
        try:
            prove(*made)
        except Exception:
            traceback.print_exc()
            say("NOT AS IT SHOULD BE")
            time.sleep(float(os.environ.get("THAW_LAB_HOLD", "0")))  # for a look at the hosts
            return 1
    say("passed")
    return 0


def prove(head: Host, worker1: Host, worker2: Host) -> None:
    say("three hosts answer to SSH: head 10.77.0.10, workers .11 and .12")
    bring_up(head, [worker1, worker2])
    refuse_strangers(head, worker1)
    scan_ports(head, worker1)
    train_across_hosts([head, worker1, worker2])
    sweep = Sweep(head)
    sweep.start()
    until(lambda: sweep.epochs() >= 1, 300, "the sweep's first epoch")
    say(f"a sweep of {N_TRIALS} trials was submitted, and trains")
    lost = lose_a_host(sweep, worker2)
    lose_mlflow(head)
    lose_the_driver(head, sweep)
    finish(sweep, lost)
    bring_home()
    look_at_mlflow(sweep)
    retrain(sweep)
    search_for_token([head, worker1])
    bring_down([head, worker1])


if __name__ == "__main__":
    if reason := hosts.why_not():
        sys.exit(f"can not run here: {reason}")
    if not hosts.is_inside():
        os.environ["PATH"] = f"{BIN}:{os.environ['PATH']}"
        os.environ["PYTHONPATH"] = str(ROOT)  # this checkout, whatever is installed
        hosts.enter([sys.executable, *sys.argv])
    sys.exit(main())
