"""What another machine may lack: told by its name, with the path and what to do, no trial burnt."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import sweep_controller

from tuning.before_start.options import SweepOptions, resolve
from tuning.before_start.space_checks import prepare_data
from tuning.engines.node_checks import needs_of
from tuning.hosting import node_needs
from tuning.hosting.assignment import Outcome
from tuning.hosting.node_needs import Needs, Unfit, check_fitness, digest_of_path
from tuning.hosting.trial_host import TrialHost
from tuning.record.events import Record, read_history
from tuning.record.sweep import Sweep, local_resources
from tuning.search.starting_points import configurations
from tuning.storage.open_store import (
    MARKER,
    StoreAddress,
    address_of,
    joins_cluster,
    sees_folder,
    share,
)
from tuning.storage.stores import FolderStore


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(node_needs, "_found_fit", set())


@pytest.fixture
def texts(workplace: Path) -> Sweep:
    """A sweep over a file of texts, its data prepared on this machine."""
    rows = [f"{'good' if i % 2 else 'bad'} text {i},{i % 2}" for i in range(60)]
    Path("data.csv").write_text("\n".join(["text,label", *rows]))
    settings = ["data=data.csv", "model=scratch:bert-mini", "epochs=1"]
    options = SweepOptions(space="text_csv", settings=settings, engine="inprocess", trials=2)
    return prepare_data(resolve(options))[0]


def look(sweep: Sweep, needs: Needs | None = None, cache: str = "other") -> None:
    config = next(configurations(sweep))
    fingerprint = sweep.data_fingerprint(config)
    cache_folder = sweep.cache_folder / cache
    check_fitness(sweep.task, config, fingerprint, needs or Needs(), cache_folder)


def test_a_machine_with_the_same_data_is_fit_and_is_asked_once(texts, monkeypatch):
    look(texts)
    Path("data.csv").unlink()
    look(texts)
    with pytest.raises(Unfit):
        look(texts, cache="another")


def test_data_that_is_missing_is_told_with_node_path_and_what_to_do(texts):
    path = texts.space.fixed["data"]
    Path(path).unlink()
    with pytest.raises(Unfit) as caught:
        look(texts)
    for part in (f"node {socket.gethostname()}", path, "copy or mount it there"):
        assert part in str(caught.value)


def test_other_data_of_the_same_name_is_told(texts):
    path = Path(texts.space.fixed["data"])
    path.write_text(path.read_text().replace("good", "fine"))
    with pytest.raises(Unfit, match="is not what the driver has; its fingerprint is") as caught:
        look(texts)
    assert str(path) in str(caught.value)


def test_other_weights_of_the_same_name_are_told(workplace):
    torch = pytest.importorskip("torch")
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1().state_dict(), "weights.pt")
    settings = ["model=squeezenet1_1", "image_size=32", "weights=weights.pt", "epochs=1"]
    options = SweepOptions(space="digits", settings=settings, engine="inprocess")
    sweep = prepare_data(resolve(options))[0]
    needs = needs_of(sweep)
    path = str(workplace / "weights.pt")
    assert dict(needs.digests) == {path: digest_of_path(Path(path))}
    look(sweep, needs, "cache")
    with pytest.raises(Unfit, match=r"weights = .*weights\.pt': is not what the driver has"):
        look(sweep, Needs(digests={path: "another"}), "cache2")


def test_a_digest_tells_folders_apart_by_names_and_content(tmp_path):
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(content)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "elif").write_text("1")
    digests = [digest_of_path(tmp_path / name) for name in "abcd"]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_worker_that_can_not_run_trials_gives_them_back_and_the_sweep_ends(texts):
    Path(texts.space.fixed["data"]).unlink()
    record = Record(texts.folder)
    elsewhere = replace(texts, cache_folder=texts.cache_folder / "other")
    controller = sweep_controller(elsewhere, record, local_resources(texts), needs=Needs())
    n_tried = 0
    while (assignment := controller.propose()) is not None:
        host = TrialHost(assignment)
        outcome = host.step()
        host.close()
        assert isinstance(outcome, Outcome)
        assert outcome.state == "interrupted"
        controller.ended(assignment.trial, outcome)
        n_tried += 1
    controller.close()
    record.close()
    assert n_tried == 3
    assert controller.kinds["trial"].ending.by == "unfit_nodes"
    for part in ("no worker can run its trials", socket.gethostname(), "data.csv"):
        assert part in controller.kinds["trial"].ending.because
    trials = read_history(texts.folder).trials
    assert {trial.state for trial in trials.values()} == {"interrupted"}  # and will be resumed
    assert all(not trial.curve for trial in trials.values())


def test_a_sweep_that_no_worker_can_run_fails_and_can_be_resumed(toy_sweep, run, tmp_path):
    """Its store is gone when its trials begin."""
    sweep = toy_sweep(trials=2)

    def unreachable(address):
        raise OSError("no way to the store")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuning.hosting.trial_host.open_store", unreachable)
        result = run(sweep)
    assert result.has_failed
    assert "no way to the store" in result.summary["ended_because"]
    assert result.summary["trials"] == {
        "completed": 0,
        "pruned": 0,
        "failed": 0,
        "infeasible": 0,
        "interrupted": 1,
    }
    assert run(sweep).summary["trials"]["completed"] == 2


def test_only_who_sees_the_marker_sees_the_folder(tmp_path):
    address = StoreAddress(str(tmp_path), str(tmp_path / "cache"), token="token")
    assert not sees_folder(address)
    (tmp_path / MARKER).write_text("another sitting's")
    assert not sees_folder(address)
    (tmp_path / MARKER).write_text("token")
    assert sees_folder(address)
    assert not sees_folder(replace(address, folder=str(tmp_path / "nowhere")))
    assert sees_folder(replace(address, token=None))


def test_a_sweep_on_this_machine_alone_asks_for_nothing(toy_sweep):
    sweep = toy_sweep()
    assert not joins_cluster(sweep)
    assert not joins_cluster(replace(sweep, address="local"))
    assert joins_cluster(replace(sweep, address="auto"))
    with share(sweep) as address:
        assert address == address_of(sweep)
        assert not address.has_other_nodes
    from tuning.storage.open_store import store_of

    assert isinstance(store_of(sweep), FolderStore)
