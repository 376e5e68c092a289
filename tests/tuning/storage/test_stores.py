"""Stores of checkpoints agree with a dictionary, and what is half written is never read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuning.storage import relay, uri_store
from tuning.storage.relay import Relay, RelayStore
from tuning.storage.remote import RemoteFolder
from tuning.storage.staging import Staging
from tuning.storage.stores import CheckpointStore, FolderStore
from tuning.storage.uri_store import UriStore

Files = dict[str, bytes]


def through_relay(folder: Path, cache: Path) -> RelayStore:
    """Both ends in one process."""
    end = Relay(str(folder))

    def call(method: str, *arguments):
        return getattr(end, method)(*arguments)

    return RelayStore(call, str(folder), Staging(cache))


@pytest.fixture(params=["folder", "relay", "file", pytest.param("s3", marks=pytest.mark.long)])
def make_store(request, tmp_path, monkeypatch) -> Callable[[str], CheckpointStore]:
    """Makes stores, each for a name of its own; the same name gives another to the same place."""
    monkeypatch.setattr(relay, "_CHUNK_BYTES", 7)
    base = request.getfixturevalue("bucket") if request.param == "s3" else None

    def make(name: str) -> CheckpointStore:
        if request.param == "folder":
            return FolderStore(tmp_path / name)
        if request.param == "relay":
            return through_relay(tmp_path / name, tmp_path / "cache")
        uri = f"file://{tmp_path}/{name}" if base is None else base.replace("/sweeps", f"/{name}")
        return UriStore(RemoteFolder(uri), Staging(tmp_path / "cache"))

    return make


def saver(files: Files) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        (folder / "empty").mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    return save


def contents(folder: Path | None) -> Files | None:
    if folder is None:
        return None
    assert (folder / "empty").is_dir()
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


KEYS = st.sampled_from(["trials/0000/best", "trials/0000/last", "trials/0001/best"])
FILES = st.dictionaries(
    st.sampled_from(["weights", "assets/a", "progress.json"]), st.binary(max_size=30), max_size=3
)
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), KEYS, FILES),
    st.tuples(st.just("fail"), KEYS, FILES),
    st.tuples(st.sampled_from(["delete", "recover", "release", "set_aside"]), KEYS, st.none()),
    st.tuples(st.just("clear"), KEYS, st.booleans()),
    st.tuples(st.just("reopen"), KEYS, st.none()),
)


class _Broken(Exception):
    pass


def _apply(store: CheckpointStore, model: dict[str, Files], operation) -> None:
    kind, key, detail = operation
    if kind == "put":
        store.put(key, saver(detail))
        model[key] = detail
    elif kind == "fail":

        def save(folder: Path) -> None:
            saver(detail)(folder)
            raise _Broken

        with pytest.raises(_Broken):
            store.put(key, save)
    elif kind == "set_aside":
        if key in model:
            store.set_aside(key)
            del model[key]
    elif kind == "clear":
        trial = key.rpartition("/")[0]
        store.clear(trial, key if detail else None)
        for other in [k for k in model if k.startswith(trial) and not (detail and k == key)]:
            del model[other]
    else:
        getattr(store, kind)(key)
        if kind == "delete":
            model.pop(key, None)


N_MADE = iter(range(10**9))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(OPERATIONS, max_size=8))
def test_a_store_agrees_with_a_dictionary(make_store, operations):
    name = f"store-{next(N_MADE)}"
    store, model = make_store(name), {}
    for operation in operations:
        if operation[0] == "reopen":
            store = make_store(name)
        else:
            _apply(store, model, operation)
        for key in ("trials/0000/best", "trials/0000/last", "trials/0001/best"):
            assert contents(store.get(key)) == model.get(key)
            assert (store.find(key) is None) == (key not in model)
            for file in ("weights", "progress.json"):
                assert store.peek(key, file) == model.get(key, {}).get(file)
    for key, files in model.items():
        assert store.sizes()[key] >= sum(map(len, files.values()))


def test_small_files_are_replaced_whole(make_store):
    store = make_store("small")
    assert store.read("a/b.json") is None
    store.write("a/b.json", b"1")
    store.write("a/b.json", b"2")
    assert store.read("a/b.json") == b"2"
    assert store.sizes() == {}
    assert store.free_bytes() > 0
    assert store.name("a/b.json").startswith(("/", "file:", "s3:"))


def test_a_large_checkpoint_comes_whole(make_store, monkeypatch):
    monkeypatch.setattr(relay, "_CHUNK_BYTES", 1_000_000)
    store, content = make_store("large"), os.urandom(10_500_000)
    store.put("trials/0000/best", saver({"weights": content, "nothing": b""}))
    assert contents(store.get("trials/0000/best")) == {"weights": content, "nothing": b""}
    assert store.sizes()["trials/0000/best"] >= 10_500_000


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.long)])
def place(request, tmp_path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/place"
    uri: str = request.getfixturevalue("bucket")
    return uri


KILLED_WHILE_UPLOADING = """
import os, signal, sys
from pathlib import Path
from tuning.storage.remote import RemoteFolder
from tuning.storage.staging import Staging
from tuning.storage.uri_store import UriStore

class Dying(RemoteFolder):
    def upload(self, file, path):
        super().upload(file, path)
        os.kill(os.getpid(), signal.SIGKILL)

def save(folder):
    for name in ("a", "b"):
        (folder / name).write_text("new")

UriStore(Dying(sys.argv[1]), Staging(Path(sys.argv[2]))).put("trials/0000/best", save)
"""


def test_what_a_killed_worker_has_half_uploaded_is_never_used(place, tmp_path):
    store = UriStore(RemoteFolder(place), Staging(tmp_path / "cache"))
    store.put("trials/0000/best", saver({"a": b"old", "b": b"old"}))
    command = [sys.executable, "-c", KILLED_WHILE_UPLOADING, place, str(tmp_path / "cache")]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    half = [path for path in RemoteFolder(place).files() if "@000002-" in path]
    assert [path.rpartition("/")[2] for path in half] == ["a"]
    other = UriStore(RemoteFolder(place), Staging(tmp_path / "elsewhere"))
    for reader in (store, other):
        assert contents(reader.get("trials/0000/best")) == {"a": b"old", "b": b"old"}
    assert len(list((tmp_path / "cache" / "staging").iterdir())) == 2  # ours, and the killed one's
    other.recover("trials/0000/best")
    assert not any("@000002-" in path for path in RemoteFolder(place).files())
    next_one = Staging(tmp_path / "cache")
    with next_one.folder():
        assert len(list((tmp_path / "cache" / "staging").iterdir())) == 2  # ours, and the next's


def test_a_version_that_lacks_a_file_or_the_end_of_one_does_not_count(place, tmp_path):
    """As left by a worker that lived on, and whose files were deleted meanwhile."""
    store = UriStore(RemoteFolder(place), Staging(tmp_path))
    store.put("trials/0000/best", saver({"a": b"12345"}))
    (version,) = {path.rpartition("/")[0] for path in RemoteFolder(place).files()}
    RemoteFolder(place).write(f"{version}/a", b"1234")
    assert store.find("trials/0000/best") is None
    RemoteFolder(place).delete(f"{version}/a")
    assert store.get("trials/0000/best") is None


class Failing(RemoteFolder):
    """Refuses to write files of some names."""

    def __init__(self, uri: str, *names: str) -> None:
        super().__init__(uri)
        self.names = names

    def upload(self, file: Path, path: str) -> None:
        if path.rpartition("/")[2] in self.names:
            raise OSError(f"{self.uri}: the network is gone")
        super().upload(file, path)


def test_an_upload_that_fails_half_way_leaves_what_was_there(place, tmp_path, monkeypatch):
    monkeypatch.setattr(uri_store, "_SECONDS_BETWEEN_ATTEMPTS", 0.0)
    remote = Failing(place)
    store = UriStore(remote, Staging(tmp_path))
    store.put("trials/0000/best", saver({"a": b"old"}))
    remote.names = ("b",)
    with pytest.raises(OSError, match="the network is gone"):
        store.put("trials/0000/best", saver({"a": b"new", "b": b"new"}))
    assert contents(store.get("trials/0000/best")) == {"a": b"old"}
    remote.names = ()
    store.put("trials/0000/best", saver({"a": b"newer"}))
    assert contents(store.get("trials/0000/best")) == {"a": b"newer"}
    versions = {path.split("/")[2] for path in remote.files("trials")}
    assert len(versions) == 1


def test_what_could_not_be_uploaded_waits_and_is_not_tried_all_the_time(place, tmp_path):
    remote = Failing(place, "a")
    store = UriStore(remote, Staging(tmp_path))
    for content in (b"1", b"2"):
        with pytest.raises(OSError, match=r"network is gone|is tried again later"):
            store.put("trials/0000/best", saver({"a": content}))
    assert len(list(tmp_path.glob("staging/*/put-*"))) == 1  # the newest
    remote.names = ()
    with pytest.raises(OSError, match=r"trials/0000/best.* is tried again later"):
        store.retry()
    store.retry(is_last=True)
    assert contents(store.get("trials/0000/best")) == {"a": b"2"}
    assert not list(tmp_path.glob("staging/*/put-*"))
    remote.names = ("a",)
    with pytest.raises(OSError, match="network is gone"):
        store.put("trials/0000/best", saver({"a": b"3"}))
    store.delete("trials/0000/best")
    store.retry()  # nothing waits any longer
    assert store.get("trials/0000/best") is None


def test_a_checkpoint_that_did_not_come_whole_through_ray_is_refused(tmp_path):
    end = Relay(str(tmp_path))
    end._store.put("trials/0000/best", saver({"a": b"old"}))
    end.receive("trials/0000/best", "1", "a", b"ne")
    with pytest.raises(OSError, match="did not come whole"):
        end.commit("trials/0000/best", "1", {"a": 3}, [])
    assert (tmp_path / "trials/0000/best/a").read_bytes() == b"old"
    end.receive("trials/0000/best", "2", "a", b"new")
    assert len(list((tmp_path / "trials/0000").iterdir())) == 2
    Relay(str(tmp_path)).call("recover", "trials/0000/best")  # whose sender was killed
    assert [path.name for path in (tmp_path / "trials/0000").iterdir()] == ["best"]


def test_a_copy_that_is_no_longer_needed_is_gone(make_store, tmp_path):
    store = make_store("copies")
    store.put("trials/0000/best", saver({"a": b"1"}))
    folder = store.get("trials/0000/best")
    assert folder is not None
    store.release("trials/0000/best")
    is_original = folder == tmp_path / "copies" / "trials/0000/best"
    assert folder.exists() == is_original
    assert contents(store.get("trials/0000/best")) == {"a": b"1"}


def test_a_uri_store_names_what_can_be_copied_by_hand(place, tmp_path):
    store = UriStore(RemoteFolder(place), Staging(tmp_path / "cache"))
    store.put("trials/0000/best", saver({"a": b"1"}))
    found = store.find("trials/0000/best")
    assert found is not None
    uri_store.fetch_whole(RemoteFolder(found), "", tmp_path / "copy")
    assert contents(tmp_path / "copy") == {"a": b"1"}
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match="holds no whole checkpoint"):
        uri_store.fetch_whole(RemoteFolder(place), "", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_what_says_that_it_is_whole_is_json_for_people(place, tmp_path):
    store = UriStore(RemoteFolder(place), Staging(tmp_path))
    store.put("trials/0000/best", saver({"assets/a": b"12"}))
    content = store.peek("trials/0000/best", ".whole.json")
    assert json.loads(content or b"") == {"files": {"assets/a": 2}, "folders": ["assets", "empty"]}
