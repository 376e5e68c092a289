"""`thaw submit` up to what is sent: options, files, tokens, and what is refused on this side."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest
import typer
from fake_dashboard import FakeDashboard, fake_dashboard
from helpers import TOY_SPACE
from option_examples import BASE, EXAMPLES, SAMPLER

from tuning.clusters.dashboard import dashboard_url
from tuning.command_line import cli
from tuning.command_line.parameters import from_command_line
from tuning.record.options import OPTIONS, SweepOptions

NOT_SENT = {"space", "address", "sweeps_folder"}
SENT = sorted(set(OPTIONS) - NOT_SENT)


@pytest.fixture
def dashboard(workplace, monkeypatch):
    monkeypatch.setenv("HOME", str(workplace / "home"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with fake_dashboard() as server:
        yield server


def parsed(arguments: list[str]) -> SweepOptions:
    """What `thaw sweep` makes of its arguments."""
    commands = typer.main.get_command(cli.app).commands
    context = commands["sweep"].make_context("sweep", list(arguments))
    return from_command_line(context.params)


@pytest.mark.parametrize("option", SENT)
def test_every_option_arrives_as_it_was_given(dashboard, thaw, option):
    given = [*(BASE if option != "metric" else ()), *EXAMPLES[option]]
    command = ["submit", TOY_SPACE, *given, "--address", dashboard.url, "--json"]
    code, out, err = thaw(*command)
    assert code == 0, err
    document = json.loads(out)
    job, files = dashboard.sent()
    there, here = parsed(job["arguments"]), parsed([TOY_SPACE, *given])
    assert there.name == document["sweep"] == job["name"]
    assert f"{there.space}" in files
    same = {"name", "space", "searcher", "settings"}
    for name, value in vars(here).items():
        if name not in same:
            assert getattr(there, name) == value, name
    assert list(there.settings) == list(here.settings)
    assert here.name in (None, there.name)
    if option == "searcher":
        file, _, function = there.searcher.rpartition(":")
        assert function == "population_of_four"
        assert files[file] == Path(SAMPLER).read_bytes()
    else:
        assert there.searcher == here.searcher


def test_all_options_arrive_together(dashboard, thaw):
    apart = {"cost_aware", "searcher", "engine", "strategy", "gpus_per_trial", "metric"}
    given = [part for name in SENT if name not in apart for part in EXAMPLES[name]]
    command = ["submit", TOY_SPACE, *BASE, *given, "--sweeps-folder", "/shared/sweeps"]
    code, _, err = thaw(*command, "--address", dashboard.url)
    assert code == 0, err
    job, _ = dashboard.sent()
    there, here = parsed(job["arguments"]), parsed([TOY_SPACE, *BASE, *given])
    assert {**vars(there), "space": None} == {**vars(here), "space": None}
    assert job["sweeps_folder"] == "/shared/sweeps"
    (submitted,) = dashboard.jobs
    assert submitted["submission_id"] == "my-sweep.1"
    command = "exec python -m tuning.clusters.supervise run my-sweep.1 'my-sweep.1' sent"
    assert submitted["entrypoint"] == command


def test_a_folder_for_sweeps_of_this_machine_is_none_of_the_clusters(dashboard, thaw, monkeypatch):
    monkeypatch.setenv("THAW_SWEEPS_FOLDER", "/here/only")
    assert thaw("submit", TOY_SPACE, *BASE, "--address", dashboard.url)[0] == 0
    job, _ = dashboard.sent()
    assert job["sweeps_folder"] is None
    assert "/here/only" not in json.dumps(job)


def test_a_sweep_is_continued_with_the_options_of_resume(dashboard, thaw, workplace):
    (workplace / "wider.py").write_text(Path(TOY_SPACE).read_text() + "\nimport helper\n")
    (workplace / "helper.py").write_text("")
    command = ["submit", "--resume", "toy", "wider.py", "--trials", "20", "--time-budget", "2h"]
    command += ["--set", "kind=plain", "--accept-changes", "--address", dashboard.url, "--json"]
    code, out, err = thaw(*command)
    assert code == 0, err
    assert json.loads(out)["sweep"] == "toy"
    job, files = dashboard.sent()
    context = (
        typer.main.get_command(cli.app)
        .commands["resume"]
        .make_context("resume", [*job["resume_arguments"], "toy"])
    )
    wanted = {
        "name": "toy", "trials": 20, "time_budget_seconds": "2h", "space": "wider.py",
        "settings": ["kind=plain"], "accept_changes": True, "confirm": None,
    }  # fmt: skip
    assert {name: context.params[name] for name in wanted} == wanted
    assert set(files) == {"wider.py", "helper.py"}


WRONG: dict[str, tuple[list[str], str]] = {
    "no space": ([], "SPACE is missing"),
    "unknown space": (["digit"], "unknown search space 'digit'; valid: digits"),
    "no such file": (["mine.py"], "there is no such file"),
    "bad setting": (["digits", "--set", "epochs=none"], "epochs = 'none': must be"),
    "bad metric": ([TOY_SPACE, "--metric", "value"], "say which way is better"),
    "no such data": (["image_folder", "--set", "data=flowers"], "no data set's name and no folder"),
    "device to send": (["digits", "--send", "/dev/zero"], "--send = '/dev/zero': is a device"),
    "device as data": (["text_csv", "--set", "data=/dev/zero"], "data = '/dev/zero': is a device"),
    "bad MLflow": (["digits", "--tracking-uri", "mlruns"], "--tracking-uri = 'mlruns'"),
    "bad name": (["digits", "--name", "a b"], "--name 'a b': must be"),
    "nothing to send": (["digits", "--send", "nothing"], "--send = 'nothing': no such file"),
    "changes of nothing": (["digits", "--accept-changes"], "is for --resume"),
    "sampler of a resume": (["--resume", "a", "--searcher", "tpe"], "--searcher: a resume can not"),
    "name of a resume": (["--resume", "a", "--name", "b"], "--name: a resume can not"),
    "number of a resume": (["--resume", "a", "--trials", "0"], "--trials = 0: must be at least 1"),
    "two clusters": ([TOY_SPACE, *BASE, "--cluster", "c.yaml"], "can not be combined"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_told_at_once_and_nothing_is_sent(dashboard, thaw, case):
    arguments, message = WRONG[case]
    started = time.monotonic()
    code, out, err = thaw("submit", *arguments, "--address", dashboard.url)
    assert (code, out) == (2, ""), err
    assert message in err
    assert time.monotonic() - started < 3
    assert dashboard.requests == []


def test_without_a_cluster_it_says_how_to_name_one(thaw, workplace):
    code, _, err = thaw("submit", "digits")
    assert code == 2
    assert "--cluster FILE" in err
    assert "'cluster.yaml' here" in err


def test_a_dry_run_contacts_nobody(dashboard, thaw):
    code, out, _ = thaw("submit", "digits", "--dry-run", "--json", "--address", dashboard.url)
    assert code == 0
    assert len(json.loads(out)["samples"]) == 5
    assert dashboard.requests == []


def test_data_of_the_cluster_is_for_the_cluster_to_check(dashboard, thaw):
    for data in ("/shared/flowers", "s3://bucket/flowers"):
        command = ["submit", "image_folder", "--set", f"data={data}", "--address", dashboard.url]
        dashboard.jobs.clear()
        code, _, err = thaw(*command, "--name", "flowers")
        assert code == 0, err
        job, files = dashboard.sent()
        assert parsed(job["arguments"]).settings == [f"data={data}"]
        assert files == {}
        assert not job["sends_data"]


def test_small_data_goes_along_and_is_named_by_its_place(
    dashboard, thaw, workplace, tmp_path_factory
):
    rows = "text,label\n" + "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(40))
    outside = tmp_path_factory.mktemp("outside") / "films.csv"
    outside.write_text(rows)
    (workplace / "data").mkdir()
    (workplace / "data" / "films.csv").write_text(rows)
    for given, place in (
        ("data/films.csv", "data/films.csv"),
        (str(workplace / "data" / "films.csv"), "./data/films.csv"),
        (str(outside), "./elsewhere/0/films.csv"),
    ):
        dashboard.jobs.clear()
        command = ["submit", "text_csv", "--set", "max_tokens=16", "--set", f"data={given}"]
        code, _, err = thaw(*command, "--address", dashboard.url, "--name", "films")
        assert code == 0, err
        job, files = dashboard.sent()
        assert sorted(parsed(job["arguments"]).settings) == [f"data={place}", "max_tokens=16"]
        assert files == {place.removeprefix("./"): rows.encode()}
        assert job["sends_data"]


def test_a_file_of_ones_own_brings_its_data_and_what_else_is_named(dashboard, thaw, workplace):
    text = Path(TOY_SPACE).read_text().replace('"epochs": 4,', '"epochs": 4, "table": "t.txt",')
    (workplace / "spaces").mkdir()
    (workplace / "spaces" / "mine.py").write_text(text)
    (workplace / "t.txt").write_text("1")
    (workplace / "more").mkdir()
    (workplace / "more" / "vocabulary.txt").write_text("a b")
    command = ["submit", "spaces/mine.py", *BASE, "--send", "more", "--address", dashboard.url]
    code, _, err = thaw(*command)
    assert code == 0, err
    job, files = dashboard.sent()
    assert set(files) == {"spaces/mine.py", "t.txt", "more/vocabulary.txt"}
    assert parsed(job["arguments"]).space == "spaces/mine.py"


def test_data_too_large_is_told_with_size_and_limit(dashboard, thaw, workplace):
    text = Path(TOY_SPACE).read_text().replace('"epochs": 4,', '"epochs": 4, "table": "large",')
    (workplace / "mine.py").write_text(text)
    with (workplace / "large").open("wb") as file:
        file.truncate(3 * 10**9)
    code, _, err = thaw("submit", "mine.py", *BASE, "--address", dashboard.url)
    assert code == 2
    assert "table = 'large' 3 GB" in err
    assert "at most 50 MB" in err
    assert dashboard.requests == []


# The token


def test_the_token_goes_only_to_who_asks_for_it(thaw, workplace, monkeypatch, dashboard):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-secret")
    assert thaw("status", "--address", dashboard.url)[0] == 0
    assert {token for _, _, token in dashboard.requests} == {None}
    with fake_dashboard(token="a-secret") as guarded:
        code, out, err = thaw("submit", "digits", "--address", guarded.url, "--json")
        assert code == 0, err
        assert guarded.requests[0][2] is None
        assert {token for _, _, token in guarded.requests[1:]} == {"a-secret"}
        sent = json.dumps(guarded.jobs) + repr(guarded.packages.values())
        assert "a-secret" not in out + err + sent
        assert all(b"a-secret" not in package for package in guarded.packages.values())


def test_the_token_does_not_follow_to_another_place(thaw, monkeypatch, dashboard):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-secret")
    with fake_dashboard(token="a-secret") as guarded:
        guarded.redirect_to = dashboard.url
        code, _, err = thaw("status", "--address", guarded.url)
    assert code == 2
    assert "no Ray dashboard" in err
    assert dashboard.requests == []


@pytest.mark.parametrize("source", ["variable", "path", "home"])
def test_a_missing_or_wrong_token_is_explained(thaw, workplace, monkeypatch, source):
    monkeypatch.setenv("HOME", str(workplace))
    file = workplace / ".ray" / "auth_token"
    if source == "path":
        file = workplace / "my-token"
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with fake_dashboard(token="right") as guarded:
        code, _, err = thaw("submit", "digits", "--address", guarded.url)
        assert code == 2
        assert f"neither in $RAY_AUTH_TOKEN nor in file {str(file)!r}" in err
        if source == "variable":
            monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        else:
            file.parent.mkdir(exist_ok=True)
            file.write_text("wrong\n")
        code, _, err = thaw("submit", "digits", "--address", guarded.url)
        assert code == 2
        where = "$RAY_AUTH_TOKEN," if source == "variable" else f"file {str(file)!r},"
        assert f"refuses the token in {where}" in err
        assert "wrong\n" not in err
        assert guarded.jobs == []
        assert guarded.packages == {}


# Versions


@pytest.mark.parametrize(
    ("name", "version", "is_refused"),
    [("python", "3.9.1", True), ("ray", "2.1.0", True), ("thaw", "9.9.9", True), ("code", "", 0)],
)
def test_other_versions_are_told_before_anything_is_sent(
    dashboard: FakeDashboard, thaw, name, version, is_refused
):
    dashboard.versions[name] = version
    code, _, err = thaw("submit", "digits", "--address", dashboard.url)
    if is_refused:
        assert code == 2
        there = "3.9" if name == "python" else version
        assert f"{name} " in err
        assert f"here, {there} there; nothing was sent" in err
        assert not dashboard.packages
        assert not dashboard.jobs
    else:
        assert code == 0
        assert "the cluster's code differs" in err


def test_a_name_is_not_used_twice(dashboard, thaw):
    command = ("submit", "digits", "--name", "mine", "--address", dashboard.url)
    assert thaw(*command)[0] == 0
    code, _, err = thaw(*command)
    assert code == 2
    assert "sweep mine is running on this cluster already" in err
    dashboard.jobs[0] |= {"status": "SUCCEEDED", "driver_exit_code": 0}
    code, _, err = thaw(*command)
    assert code == 2
    assert "thaw submit --resume mine" in err
    dashboard.jobs[0] |= {"status": "FAILED", "driver_exit_code": 2}  # it never began
    assert thaw(*command)[0] == 0
    assert [job["submission_id"] for job in dashboard.jobs] == ["mine", "mine~2"]


# Clusters that do not answer as they should


def test_an_address_where_nobody_answers(thaw, workplace, free_port):
    for command in (["submit", "digits"], ["status"], ["stop", "x"], ["fetch", "x"], ["logs", "x"]):
        started = time.monotonic()
        code, out, err = thaw(*command, "--address", f"http://127.0.0.1:{free_port}")
        assert (code, out) == (2, "")
        assert "nobody answers" in err
        assert "is the cluster up?" in err
        assert time.monotonic() - started < 8


def test_a_server_that_never_answers_is_given_up_within_seconds(thaw, workplace):
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        code, _, err = thaw("status", "--address", f"127.0.0.1:{server.getsockname()[1]}")
    assert code == 2
    assert "timed out" in err
    assert time.monotonic() - started < 8


def test_what_is_no_dashboard_is_told_so(thaw, workplace):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak_something_else() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\n")

        threading.Thread(target=speak_something_else, daemon=True).start()
        code, _, err = thaw("status", "--address", f"127.0.0.1:{server.getsockname()[1]}")
    assert code == 2
    assert "does not speak HTTP" in err


@pytest.mark.parametrize(
    "address",
    ["", "http://", "ftp://host", "ray://10.0.0.1:10001", "http://h:99999", "http://u:p@h", "h/x"],
)
def test_an_address_that_is_none(thaw, workplace, address):
    code, _, err = thaw("status", "--address", address)
    assert code == 2
    assert "must be the address of a Ray cluster's dashboard" in err


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("10.0.0.1", "http://10.0.0.1:8265"),
        ("10.0.0.1:80/", "http://10.0.0.1:80"),
        ("https://ray.example.org", "https://ray.example.org:443"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_an_address_is_completed(address, url):
    assert dashboard_url(address) == url


def test_an_unknown_sweep_is_told_with_those_that_there_are(dashboard, thaw):
    thaw("submit", "digits", "--name", "mine", "--address", dashboard.url)
    for command in ("status", "logs", "stop", "fetch"):
        code, _, err = thaw(command, "mime", "--address", dashboard.url)
        assert code == 2
        assert "unknown sweep 'mime'; valid: mine" in err
