"""The user's training file and its helpers: packed, and used where they are missing."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from tuning.storage.code_archive import (
    CODE_FILE,
    digest_of,
    pack_code,
    saved_train_file,
    train_file_here,
    unpack_code,
)
from tuning.storage.stores import FolderStore


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A training file with helpers, and much that is none; the file's path."""
    folder = tmp_path / "project"
    for name, text in {
        "own.py": "from helper import A\n",
        "helper.py": "A = 1\n",
        "parts/__init__.py": "",
        "parts/model.py": "B = 2\n",
        "data.csv": "1,2\n",
        ".git/hook.py": "",
        "venv/pyvenv.cfg": "",
        "venv/lib/thing.py": "",
        "parts/__pycache__/model.py": "",
        "sweeps/s/sweep.json": "{}",
        "sweeps/s/own.py": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "own.py"


def names_in(archive: bytes) -> list[str]:
    with zipfile.ZipFile(BytesIO(archive)) as content:
        return content.namelist()


def test_the_modules_beside_a_file_go_with_it(project):
    archive = pack_code(project)
    assert names_in(archive) == ["helper.py", "own.py", "parts/__init__.py", "parts/model.py"]
    assert pack_code(project) == archive
    (project.parent / "sweeps" / "s2").mkdir()
    (project.parent / "sweeps" / "s2" / "sweep.json").touch()
    (project.parent / "sweeps" / "s2" / "own.py").touch()
    assert pack_code(project) == archive
    (project.parent / "helper.py").write_text("A = 2\n")
    assert pack_code(project) != archive


def test_of_a_whole_home_folder_only_what_is_beside_goes_along(project, monkeypatch):
    monkeypatch.setattr("tuning.storage.code_archive._MOST_FILES", 3)
    assert names_in(pack_code(project)) == ["helper.py", "own.py"]
    monkeypatch.setattr("tuning.storage.code_archive._MOST_FILES", 1)
    assert names_in(pack_code(project)) == ["own.py"]


def test_unpacked_it_is_the_same_to_the_last_bit(project, tmp_path):
    archive = pack_code(project)
    folder = unpack_code(archive, tmp_path / "cache")
    assert unpack_code(archive, tmp_path / "cache") == folder
    assert pack_code(folder / "own.py") == archive


def test_a_machine_with_the_same_files_uses_them_and_another_gets_a_copy(project, tmp_path):
    digest, cache = digest_of(pack_code(project)), tmp_path / "cache"
    store = FolderStore(tmp_path / "sweep")
    store.write(CODE_FILE, pack_code(project))
    assert train_file_here(str(project), None, store, cache) == str(project)
    assert train_file_here(str(project), digest, store, cache) == str(project)
    assert not cache.exists()
    away = str(tmp_path / "nowhere" / "own.py")
    copy = Path(train_file_here(away, digest, store, cache))
    assert copy.read_bytes() == project.read_bytes()
    assert (copy.parent / "parts" / "model.py").exists()
    store.write(CODE_FILE, b"another")
    assert train_file_here(away, digest, store, cache) == str(copy)
    with pytest.raises(OSError, match=r"own\.py': is not the driver's on this machine"):
        train_file_here(away, digest, store, tmp_path / "empty")


IMPORTS_A_HELPER = """
import sys
from pathlib import Path
from tuning.user_code.loading import import_file
assert import_file(Path(sys.argv[1])).A == 1
"""


def test_a_module_beside_the_file_can_be_imported_from_anywhere(project, tmp_path):
    command = [sys.executable, "-c", IMPORTS_A_HELPER, str(project)]
    subprocess.run(command, check=True, timeout=60, cwd=tmp_path)


def test_a_sweep_s_own_copy_has_its_helpers_until_somebody_changes_it(project, tmp_path):
    sweep_folder, cache = tmp_path / "sweep", tmp_path / "cache"
    sweep_folder.mkdir()
    copy = sweep_folder / "own.py"
    copy.write_bytes(project.read_bytes())
    assert saved_train_file(sweep_folder, "own.py", cache) == copy  # of a sweep of earlier days
    (sweep_folder / CODE_FILE).write_bytes(pack_code(project))
    saved = saved_train_file(sweep_folder, "own.py", cache)
    assert (saved.parent / "helper.py").exists()
    copy.write_text("from helper import A as B\n")
    assert saved_train_file(sweep_folder, "own.py", cache) == copy


HELPED = """
from search_spaces.domains import Choice, SearchSpace
from trainables.task import EpochReport
from helping import quality

SPACE = SearchSpace(name="helped", domains={"x": Choice(1, 2, 3)})

def train(config, run):
    yield EpochReport(1, {"value": quality(config["x"])}, lambda folder: None)
"""


@pytest.mark.long
def test_a_sweep_goes_on_without_the_user_s_folder(thaw, workplace):
    (workplace / "mine").mkdir()
    (workplace / "mine" / "helped.py").write_text(HELPED)
    (workplace / "mine" / "helping.py").write_text("def quality(x):\n    return float(x)\n")
    options = ("--engine", "inprocess", "--metric", "value:max", "--name", "s", "--trials", "2")
    program = "import sys; from tuning.command_line.cli import main; sys.argv[0] = 'thaw'; main()"
    run = [sys.executable, "-c", program]
    begin = ["sweep", "mine/helped.py", *options, "--searcher", "grid"]
    subprocess.run([*run, *begin], check=True, timeout=100, capture_output=True)
    (workplace / "mine").rename(workplace / "gone")
    again = [*run, "resume", "s", "--trials", "3", "--json"]
    done = subprocess.run(again, timeout=100, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"completed": 3' in done.stdout
