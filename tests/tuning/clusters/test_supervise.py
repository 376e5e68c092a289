"""The head's side of a submitted sweep: drivers that die, jobs that are lost, files on all nodes.

The drivers are real ones, with the engine that needs no Ray; with Ray it is test_submit.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_dashboard import fake_dashboard
from helpers import HOLD, ROOT, TOY_SPACE

from trainables.errors import InputError
from tuning.clusters import supervise, supervisor, watcher
from tuning.clusters.dashboard import Dashboard
from tuning.clusters.jobs import (
    STATE_FILE,
    SWEEP_KEY,
    JobRecord,
    State,
    Submitted,
    job_record,
    next_job_id,
    sweeps_folder_of,
)
from tuning.clusters.sent_sweeps import describe_sweep, list_sweeps
from tuning.clusters.supervisor import Supervisor
from tuning.record.events import read_history
from tuning.storage.driver_lock import HOLDER_FILE
from tuning.storage.saved_sweeps import open_sweep, save_sweep
from tuning.user_code.sent_files import FILES_VARIABLE, place_files, runtime_env

pytestmark = pytest.mark.timeout(180)
ARGUMENTS = ["--metric=value:max", "--engine=inprocess", "--scheduler=none", "--name=toy"]


@pytest.fixture
def head(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, as a cluster's head has it; its sweeps are in ``sweeps``."""
    home = workplace / "head"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace / 'mlflow.db'}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("THAW_SWEEPS_FOLDER", raising=False)
    monkeypatch.setattr(supervisor, "_SECONDS_BEFORE_RESTART", 0.1)
    before = signal.getsignal(signal.SIGTERM)
    yield home
    signal.signal(signal.SIGTERM, before)


def install(workplace: Path, *arguments: str, space: str | None = None) -> JobRecord:
    sent = workplace / "sent"
    shutil.rmtree(sent, ignore_errors=True)
    sent.mkdir()
    (sent / "toy_space.py").write_text(space or Path(TOY_SPACE).read_text())
    record = job_record("toy")
    submitted = Submitted("toy", [*ARGUMENTS, *arguments, "--", "toy_space.py"])
    record.install(submitted, sent)
    return record


def supervisor_of(record: JobRecord, job_id: str = "toy") -> Supervisor:
    return Supervisor(record, record.submitted(), job_id)


def wait_for_epochs(folder: Path, n: int) -> None:
    for _ in range(600):
        if supervisor.n_epochs(folder) >= n:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {n} epochs in {folder} within 30 s")


@pytest.mark.long
def test_a_driver_that_is_killed_is_followed_by_one_that_resumes(head, workplace, capfd):
    record = install(workplace, "--set=seconds=0.3", "--trials=3")
    folder = head / "sweeps" / "toy"

    def kill() -> None:
        wait_for_epochs(folder, 5)
        os.kill(json.loads((folder / HOLDER_FILE).read_text())["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    code = supervisor_of(record).run()
    killer.join()
    assert code == 0
    state = record.state()
    assert (state.phase, state.exit_code, state.n_restarts) == ("ended", 0, 1)
    assert state.folder == str(folder)
    trials = read_history(folder).trials
    assert [sorted(trial.curve) for trial in trials.values()] == [[1, 2, 3, 4]] * 3
    assert "supervisor: the driver was killed by signal 9" in capfd.readouterr().out


@pytest.mark.long
def test_a_driver_that_only_dies_is_given_up(head, workplace, capfd):
    record = install(workplace, space="import os\nos._exit(7)")
    assert supervisor_of(record).run() == 1
    assert record.state().phase == "given up"
    out = capfd.readouterr().out
    assert out.count("supervisor: thaw sweep toy") == 4
    assert "4 times without a new epoch; giving up" in out


DIES_AT_ITS_END = """
import atexit, os
from pathlib import Path

def die():
    if not Path({mark!r}).exists():
        Path({mark!r}).touch()
        os._exit(1)

atexit.register(die)
"""


@pytest.mark.long
def test_a_driver_that_dies_when_all_is_trained_is_no_failed_sweep(head, workplace, capfd):
    """Ray ends its driver with 1, as a sweep does in which nothing works."""
    dies = DIES_AT_ITS_END.format(mark=str(workplace / "died"))
    record = install(workplace, space=Path(TOY_SPACE).read_text() + dies)
    assert supervisor_of(record).run() == 0
    assert (record.state().phase, record.state().n_restarts) == ("ended", 1)
    assert "supervisor: the driver ended with exit code 1" in capfd.readouterr().out


def test_wrong_input_is_the_last_word(head, workplace, capfd):
    record = install(workplace, "--set=colour=red")
    assert supervisor_of(record).run() == 2
    assert record.state().phase == "ended"
    assert capfd.readouterr().out.count("supervisor: thaw sweep toy") == 1


def test_a_sweep_in_which_nothing_works_is_the_last_word_too(head, workplace, capfd):
    settings = ["--set=fault=raise", "--set=fault_beyond=-1", "--trials=2"]
    record = install(workplace, *settings)
    assert supervisor_of(record).run() == 1
    assert record.state().phase == "ended"
    assert "giving up" not in capfd.readouterr().out


RUN = """
import sys
from tuning.clusters.jobs import job_record
from tuning.clusters.supervisor import Supervisor
record = job_record("toy")
sys.exit(Supervisor(record, record.submitted(), "toy").run())
"""


@pytest.mark.long
@pytest.mark.parametrize("told", ["both", "supervisor"])
def test_a_sweep_that_is_told_to_end_does_so_in_order_and_goes_on_later(head, workplace, told):
    """Ray tells a job's whole tree of processes, a person perhaps one of them."""
    record = install(workplace, "--set=seconds=0.4", "--trials=3")
    folder = head / "sweeps" / "toy"
    process = subprocess.Popen([sys.executable, "-c", RUN])
    try:
        wait_for_epochs(folder, 2)
        driver = json.loads((folder / HOLDER_FILE).read_text())["pid"]
        for pid in (process.pid, *([driver] if told == "both" else ())):
            os.kill(pid, signal.SIGTERM)
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert record.state().phase == "stopped"
    assert read_history(folder).ended_by == "interrupted"
    sent = workplace / "sent"
    again = Submitted("toy", [], resume_arguments=["--trials=2"])
    record.go_on_with(again, sent)
    assert record.submitted().arguments[-1] == "toy_space.py"
    assert supervisor_of(record, "toy~2").run() == 0
    assert record.state().job_id == "toy~2"
    assert open_sweep("toy", head / "sweeps").trials == 2
    assert read_history(folder).n_in_state["completed"] == 2


@pytest.mark.long
def test_it_waits_for_a_driver_that_a_lost_supervisor_has_left(head, workplace, capfd, toy_sweep):
    record = install(workplace, "--trials=2")
    folder = head / "sweeps" / "toy"
    save_sweep(toy_sweep(trials=2, scheduler="none", sweeps_folder=head / "sweeps"))
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    threading.Timer(3.0, other.kill).start()
    started = time.monotonic()
    assert supervisor_of(record).run() == 0
    assert time.monotonic() - started > 3
    other.wait(10)
    out = capfd.readouterr().out
    assert f"sweep toy is being run by process {other.pid}" in out
    assert "supervisor: thaw resume toy" in out


def test_there_is_one_supervisor_of_a_sweep(head):
    with (
        supervise._sole_supervisor("toy"),
        pytest.raises(InputError, match="another job runs sweep toy already"),
        supervise._sole_supervisor("toy"),
    ):
        pass
    with supervise._sole_supervisor("toy"):
        pass


def take_in(workplace: Path, submitted: Submitted) -> Submitted:
    sent = workplace / "received"
    (sent / "files").mkdir(parents=True, exist_ok=True)
    (sent / "files" / "a.txt").write_text("1")
    (sent / "job.json").write_text(json.dumps(vars(submitted)))
    return supervise._take_in(job_record(submitted.name), sent)


def test_what_was_sent_is_kept_beyond_its_job(head, workplace, toy_sweep):
    taken = take_in(workplace, Submitted("toy", ["digits"], sends_data=True))
    record = job_record("toy")
    assert record.submitted() == taken
    assert (record.files / "a.txt").read_text() == "1"
    assert (record.folder / "files.zip").is_file()
    save_sweep(toy_sweep(sweeps_folder=head / "sweeps"))
    with pytest.raises(
        InputError, match="--name 'toy': the cluster has a sweep of that name already"
    ):
        take_in(workplace, Submitted("toy", ["digits"]))
    again = take_in(workplace, Submitted("toy", [], resume_arguments=["--trials=3"]))
    assert (again.arguments, again.resume_arguments) == (["digits"], ["--trials=3"])
    with pytest.raises(InputError, match="no such sweep on the cluster"):
        take_in(workplace, Submitted("other", [], resume_arguments=[]))


def test_a_sweep_of_another_version_is_refused(head):
    with pytest.raises(InputError, match=r"submitted with Thaw 0\.0\.1, and this cluster has"):
        supervise._check_version(Submitted("toy", [], versions={"thaw": "0.0.1"}))


def test_sweeps_are_in_the_home_folder_unless_told_otherwise(head, monkeypatch):
    def place(given: str | None) -> str:
        return str(sweeps_folder_of(Submitted("toy", [], sweeps_folder=given)))

    assert place(None) == str(head / "sweeps")
    assert place("mine") == str(head / "mine")
    assert place("/shared/mine") == "/shared/mine"
    assert place("s3://bucket/mine") == "s3://bucket/mine"
    monkeypatch.setenv("THAW_SWEEPS_FOLDER", "/shared/all")
    assert place(None) == "/shared/all"
    assert place("mine") == str(head / "mine")


# The watcher


@pytest.fixture
def cluster(head, workplace):
    with fake_dashboard() as server:
        record = install(workplace)
        record.write_state(State("running", "toy"))
        job = {"submission_id": "toy", "type": "SUBMISSION", "entrypoint": "", "start_time": 1}
        server.jobs = [{**job, "status": "RUNNING"}]
        yield server, record, Dashboard(server.url, None)


@pytest.mark.parametrize(
    ("job", "phase", "revived_as"),
    [
        ({"status": "RUNNING"}, "running", None),
        ({"status": "PENDING"}, "running", None),
        ({"status": "FAILED"}, "running", "toy~2"),
        ({"status": "FAILED", "driver_exit_code": -9}, "running", "toy~2"),
        ({"status": "STOPPED"}, "running", None),
        ({"status": "FAILED", "driver_exit_code": 2}, "ended", None),
        ({"status": "FAILED"}, "given up", None),
        (None, "running", "toy"),
        (None, "stopped", None),
    ],
)
def test_a_job_is_started_again_if_nobody_has_ended_it(cluster, job, phase, revived_as):
    server, record, dashboard = cluster
    record.write_state(State(phase, "toy"))
    server.jobs = [] if job is None else [{**server.jobs[0], **job}]
    n_before = len(server.jobs)
    watcher.look_after(record, dashboard)
    new = server.jobs[n_before:]
    assert [each["submission_id"] for each in new] == ([] if revived_as is None else [revived_as])
    if revived_as is not None:
        assert record.state().job_id == revived_as
        command = f"exec python -m tuning.clusters.supervise run toy '{revived_as}'"
        assert new[0]["entrypoint"] == command
        assert new[0]["metadata"] == {"thaw_sweep": "toy"}
        assert "working_dir" not in new[0]["runtime_env"]
    elif job == {"status": "STOPPED"}:
        assert record.state().phase == "stopped"


def test_a_job_that_is_lost_again_and_again_is_given_up(cluster):
    server, record, dashboard = cluster
    for _ in range(10):
        for job in server.jobs:
            job["status"] = "FAILED"
        watcher.look_after(record, dashboard)
    assert [job["submission_id"] for job in server.jobs] == [
        "toy", *(f"toy~{n}" for n in range(2, 7))
    ]  # fmt: skip
    assert record.state().phase == "given up"


@pytest.mark.parametrize(
    ("kept", "state"),
    [
        (State("ended", "toy", exit_code=0), "done"),
        (State("ended", "toy", exit_code=1), "failed"),
        (State("stopped", "toy", exit_code=130), "stopped"),
        (State("running", "toy"), "lost"),
        (State("ended", "an earlier job", exit_code=0), "lost"),
    ],
)
def test_a_job_that_ray_has_lost_ended_as_its_supervisor_says(cluster, kept, state):
    server, record, dashboard = cluster
    server.jobs[0] |= {"status": "FAILED", "metadata": {SWEEP_KEY: "toy"}}
    record.write_state(kept)
    server.files["thaw/toy/job/state.json"] = (record.folder / STATE_FILE).read_bytes()
    assert describe_sweep(dashboard, "toy")["state"] == state
    assert [row["state"] for row in list_sweeps(dashboard)] == [state]


def test_ids_of_jobs_are_no_names_of_sweeps():
    assert next_job_id("toy") == "toy~2"
    assert next_job_id("toy~2") == "toy~3"
    assert next_job_id("toy-2") == "toy-2~2"


def test_sweeps_are_shown_among_rays_logs(cluster, workplace, toy_sweep, head):
    _, record, _ = cluster
    logs = workplace / "logs"
    logs.mkdir()
    watcher.show_versions(logs)
    assert json.loads((logs / "thaw" / "versions.json").read_text())["code"]
    watcher.show_sweep(record, logs)
    assert (logs / "thaw" / "toy" / "job" / "job.json").is_file()
    folder = head / "sweeps" / "toy"
    record.write_state(State("running", "toy", folder=str(folder)))
    for _ in range(2):
        watcher.show_sweep(record, logs)
    assert os.readlink(logs / "thaw" / "toy" / "sweep") == str(folder)


# Files on other nodes


def test_only_a_sweep_with_data_of_ones_own_has_files_brought_to_nodes(monkeypatch):
    monkeypatch.delenv(FILES_VARIABLE, raising=False)
    assert runtime_env() is None
    monkeypatch.setenv(FILES_VARIABLE, "/home/me/.thaw/jobs/toy/files")
    wanted = runtime_env()
    assert wanted["working_dir"] == "/home/me/.thaw/jobs/toy/files.zip"
    module, _, function = wanted["worker_process_setup_hook"].rpartition(".")
    assert getattr(sys.modules[module], function) is place_files


def test_files_are_found_on_another_node_where_they_are_on_the_head(workplace, monkeypatch):
    place = workplace / "home" / "jobs" / "toy" / "files"
    monkeypatch.setenv(FILES_VARIABLE, str(place))
    for session in ("first", "second", "second"):
        arrived = workplace / session
        arrived.mkdir(exist_ok=True)
        (arrived / "t.txt").write_text(session)
        monkeypatch.chdir(arrived)
        place_files()
        assert (place / "t.txt").read_text() == session
    assert [path.name for path in place.parent.iterdir()] == ["files"]


def test_the_heads_own_files_stay_as_they_are(workplace, monkeypatch):
    place = workplace / "files"
    place.mkdir()
    monkeypatch.setenv(FILES_VARIABLE, str(place))
    place_files()
    assert place.is_dir()
    assert not place.is_symlink()
