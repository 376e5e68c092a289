"""The study in a storage: what optuna-dashboard and others find there, whatever happened before."""

from __future__ import annotations

import json
import math
import threading
import time
from urllib.request import urlopen
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna_dashboard
import pytest
from helpers import InterruptingView, RecordingView, reopened
from optuna.trial import TrialState as State
from records import check_mirror, study_of

from trainables.errors import InputError
from tuning.record.events import Record, read_history
from tuning.search.study_storage import JOURNAL_FILE, masked
from tuning.session.runner import run_sweep
from tuning.storage.saved_sweeps import save_sweep
from tuning.tracking import optuna_storage
from tuning.tracking.optuna_storage import make_mirror


def test_each_trial_is_there_as_what_it_is(toy_sweep, run):
    sweep = toy_sweep("epochs=9", "fault=diverge", "fault_beyond=0.7", trials=16)
    run(sweep)
    trials = check_mirror(sweep)
    records = read_history(sweep.folder).trials
    states = {record.state for record in records.values()}
    assert states == {"completed", "pruned", "infeasible"}
    for number, record in records.items():
        if record.state == "infeasible":
            assert trials[number].constraints == {"infeasible": 1.0}
            assert trials[number].value == -math.inf
            assert "the loss is nan in epoch 2" in trials[number].user_attrs["thaw.error"]
        elif record.state == "pruned":
            assert max(trials[number].intermediate_values) == max(record.curve) < 9
    study = study_of(sweep)
    assert study.metric_names == ["value"]
    assert records[study.best_trial.number].state == "completed"


class Dashboard:
    """optuna-dashboard on a port of the loopback interface."""

    def __init__(self, storage: str, port: int) -> None:
        class Quiet(WSGIRequestHandler):
            def log_message(self, *args) -> None:
                pass

        app = optuna_dashboard.wsgi(storage)
        self._server = make_server("127.0.0.1", port, app, handler_class=Quiet)
        self._port = port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def get(self, path: str) -> dict:
        with urlopen(f"http://127.0.0.1:{self._port}/api/{path}", timeout=20) as answer:
            return json.loads(answer.read())

    def trials(self) -> list[dict]:
        return self.get("studies/0?after=0")["trials"]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class LookingView(RecordingView):
    """Opens the dashboard in the second trial, and looks until the running trial is seen there."""

    def __init__(self, journal, port: int) -> None:
        super().__init__()
        self._journal, self._port = journal, port
        self.dashboard: Dashboard | None = None
        self.seen: dict = {}

    def update(self, event) -> None:
        if event["event"] != "epoch" or event["trial"] != 1 or event["epoch"] != 3:
            return
        self.dashboard = Dashboard(str(self._journal), self._port)
        until = time.monotonic() + 60
        while time.monotonic() < until and len(self.seen.get("intermediate_values", ())) < 3:
            time.sleep(0.1)
            self.seen = (self.dashboard.trials() or [{}, {}])[-1]


@pytest.mark.long
@pytest.mark.timeout(240)
def test_optuna_dashboard_shows_it_while_it_runs_and_afterwards(toy_sweep, free_port):
    sweep = toy_sweep(trials=4, scheduler="none")
    save_sweep(sweep)  # the journal's folder
    view = LookingView(sweep.folder / JOURNAL_FILE, free_port)
    optuna_storage.open_journal(sweep.folder / JOURNAL_FILE)
    run_sweep(sweep, view)
    try:
        assert view.seen["state"] == "Running"
        assert [each["step"] for each in view.seen["intermediate_values"]] == [1, 2, 3]
        # It may show what it read a few seconds ago.
        complete = ["Complete"] * 4
        wait_for(lambda: [trial["state"] for trial in view.dashboard.trials()] == complete)
        studies = view.dashboard.get("studies")["study_summaries"]
        assert [study["study_name"] for study in studies] == ["toy"]
    finally:
        view.dashboard.close()


def test_an_interrupted_trial_waits_and_is_there_once_after_the_resume(toy_sweep, run):
    sweep = toy_sweep(trials=5, scheduler="none")
    run_sweep(sweep, InterruptingView(after_epochs=6))
    states = [trial.state for trial in check_mirror(sweep)]
    assert states == [State.COMPLETE, State.WAITING]
    run(reopened(sweep))
    assert [trial.state for trial in check_mirror(sweep)] == [State.COMPLETE] * 5


def follow(sweep, act) -> None:
    """One sitting of a driver that does no more than ``act`` with the record."""
    record = Record(sweep.folder)
    mirror = make_mirror(sweep, record, print)
    mirror.start()
    act(record)
    assert mirror.close()
    record.close()


def start(record: Record, number: int, n_epochs: int) -> None:
    point = {"x": 0.1 * number, "kind": "plain"}
    record.append("trial_started", trial=number, point=point, config=point, gpus=0.0)
    for epoch in range(1, n_epochs + 1):
        record.append("epoch", trial=number, epoch=epoch, metrics={"value": 0.1 * epoch})


def states_of(sweep) -> list[State]:
    try:
        return [trial.state for trial in study_of(sweep).trials]
    except (ValueError, KeyError, InputError):  # not there yet, or not whole
        return []


def wait_for(condition) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("damage", ["cut", "nonsense", "gone", "half a lock", "database"])
def test_a_killed_drivers_trials_are_left_running_only_until_the_resume(toy_sweep, damage):
    sweep = toy_sweep(trials=3, storage="sqlite:///s.db" if damage == "database" else None)
    save_sweep(sweep)
    journal = sweep.folder / JOURNAL_FILE

    def first(record: Record) -> None:
        start(record, 0, 2)
        record.append("trial_ended", trial=0, state="completed", error=None)
        start(record, 1, 2)
        start(record, 2, 1)

    follow(sweep, first)
    assert [t.state for t in check_mirror(sweep)] == [State.COMPLETE, State.RUNNING, State.RUNNING]
    content = b"" if damage == "database" else journal.read_bytes()
    {
        "database": lambda: None,  # nothing is damaged: it is another storage's turn
        "cut": lambda: journal.write_bytes(content[:-20]),
        "nonsense": lambda: journal.write_bytes(b"{nonsense}\n" + content),
        "gone": journal.unlink,
        "half a lock": lambda: (sweep.folder / f"{JOURNAL_FILE}.lock").touch(),
    }[damage]()

    def second(record: Record) -> None:
        waiting = [State.COMPLETE, State.WAITING, State.WAITING]
        wait_for(lambda: states_of(sweep) == waiting)
        start(record, 1, 0)
        record.append("epoch", trial=1, epoch=3, metrics={"value": 0.3})
        record.append("trial_ended", trial=1, state="pruned", error=None)
        record.append("trial_ended", trial=2, state="interrupted", error=None)

    follow(sweep, second)
    states = [trial.state for trial in check_mirror(sweep)]
    assert states == [State.COMPLETE, State.PRUNED, State.WAITING]
    assert (sweep.folder / f"{JOURNAL_FILE}.damaged").exists() == (damage == "nonsense")


def test_it_is_kept_in_a_database_if_one_is_named(toy_sweep, run, workplace):
    sweep = toy_sweep("epochs=9", trials=8, storage="sqlite:///studies.db")
    assert sweep.storage == f"sqlite:///{workplace / 'studies.db'}"
    assert not (workplace / "studies.db").exists()
    run(sweep)
    check_mirror(sweep)
    assert not (sweep.folder / JOURNAL_FILE).exists()
    run(reopened(sweep, trials=9))
    assert len(check_mirror(sweep)) == 9
    with pytest.raises(InputError, match="has a study 'toy' already; choose another --name"):
        toy_sweep(storage="sqlite:///studies.db", sweeps_folder=workplace / "elsewhere")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("studies.db", "must be such as sqlite:///FILE.db"),
        ("sqlite:///nowhere/studies.db", "there is no folder .*nowhere"),
        ("mysql://host/studies", "must be such as sqlite:///FILE.db"),
        ("mysql://me:secret@host/studies", r"me:\*\*\*@host.* must be such as sqlite:///FILE.db"),
        ("postgresql://me:secret@127.0.0.1:9/x", r"me:\*\*\*@127.0.0.1:9/x.*: must be without the"),
        ("postgresql+psycopg://127.0.0.1/x?user=me&password=secret", r"must be without the pass"),
        ("postgresql+pg8000://me@127.0.0.1:9/studies", r"me@127.* its driver is not installed"),
        ("postgresql://me@127.0.0.1:9/studies", r"me@127.0.0.1:9/studies.*"),
    ],
)
def test_a_storage_that_can_not_be_used_is_refused(toy_sweep, url, message):
    with pytest.raises(InputError, match=message) as error:
        toy_sweep(storage=url)
    assert "secret" not in str(error.value)


def test_a_password_is_not_shown():
    assert masked("postgresql://me:secret@host/x") == "postgresql://me:***@host/x"
    assert masked("postgresql://me:se@c:ret@host/x") == "postgresql://me:***@host/x"
    assert masked("postgresql://:secret@host/x") == "postgresql://:***@host/x"
    assert masked("postgresql://me@host/x") == "postgresql://me@host/x"
    hidden = "postgresql://me@host/x?password=***&sslmode=require"
    assert masked(hidden.replace("***", "secret")) == hidden


def test_trials_that_somebody_queues_in_the_study_are_left_alone(toy_sweep, run):
    sweep = toy_sweep(trials=2, scheduler="none")
    run(sweep)
    study_of(sweep).enqueue_trial({"x": 0.9})
    run(reopened(sweep, trials=4))
    ours = [t for t in study_of(sweep).trials if "thaw.trial" in t.user_attrs]
    assert [trial.user_attrs["thaw.trial"] for trial in ours] == [0, 1, 2, 3]
    assert {trial.state for trial in ours} == {State.COMPLETE}
