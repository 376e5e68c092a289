"""What goes to a cluster with a submitted sweep, and what never does."""

from __future__ import annotations

import io
import os
import zipfile
from keyword import iskeyword
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.errors import InputError
from tuning.clusters import package as package_module
from tuning.clusters.package import LIMIT_BYTES, Package, imported_files, make_archive


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def names_in(archive: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(archive)) as content:
        return set(content.namelist())


PROJECT = {
    "space.py": "import helper\nfrom pieces import head\nfrom deep.down import thing\nimport torch",
    "helper.py": "def late():\n    from other import x\n    import search_spaces.domains",
    "other.py": "x = 1",
    "unrelated.py": "password = 'secret'",
    "pieces/__init__.py": "",
    "pieces/head.py": "from . import words",
    "pieces/words.py": "",
    "pieces/vocabulary.json": "[]",
    "pieces/.env": "TOKEN=secret",
    "pieces/weights.safetensors": "large",
    "pieces/__pycache__/head.pyc": "",
    "pieces/venv/pyvenv.cfg": "",
    "pieces/venv/lib.py": "",
    "pieces/mlruns/0/meta.yaml": "",
    "deep/down/thing.py": "",
    "deep/down/nothing.py": "",
    "search_spaces/domains.py": "",
    ".git/config": "",
    ".venv/lib/python3.11/site-packages/helper.py": "",
    "sweeps/toy/events.jsonl": "",
    "sweeps/toy/trials/0001/best/model.safetensors": "",
    "mlflow.db": "",
}


def test_a_file_goes_with_what_it_imports_beside_it_and_nothing_else(tmp_path):
    write(tmp_path, PROJECT)
    package = Package(tmp_path)
    assert package.add_code(tmp_path / "space.py") == "space.py"
    expected = {
        "space.py", "helper.py", "other.py", "pieces/__init__.py", "pieces/head.py",
        "pieces/words.py", "pieces/vocabulary.json", "deep/down/thing.py",
    }  # fmt: skip
    assert set(package.files) == expected
    archive = make_archive(package.files, {"job.json": b"{}"})
    assert names_in(archive) == {"job.json", *expected}
    assert not package.has_data


def test_all_of_a_data_folder_goes_but_for_what_is_hidden(tmp_path):
    write(
        tmp_path / "flowers",
        {
            "train/checkpoints/1.jpg": "a class may be called anything",
            "train/mlruns/2.pt": "",
            ".git/config": "",
            ".gitignore": "*",
            "train/.DS_Store": "",
            "train/__pycache__/x.pyc": "",
            "old_sweep/events.jsonl": "",
            "env/pyvenv.cfg": "",
        },
    )
    os.mkfifo(tmp_path / "flowers" / "pipe")
    (tmp_path / "flowers" / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "flowers" / "train" / "loop").symlink_to(tmp_path / "flowers")
    package = Package(tmp_path)
    assert package.add_data(tmp_path / "flowers", "data") == "flowers"
    assert set(package.files) == {
        "flowers/train/checkpoints/1.jpg",
        "flowers/train/mlruns/2.pt",
    }
    assert package.has_data


def test_a_link_to_a_folder_is_followed(tmp_path):
    write(tmp_path / "elsewhere", {"a/1.txt": "x"})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "elsewhere")
    package = Package(tmp_path)
    package.add_data(tmp_path / "data", "data")
    assert set(package.files) == {"data/train/a/1.txt"}


def test_what_lies_outside_keeps_its_neighbours(tmp_path, monkeypatch):
    write(tmp_path, {"home/x": "", "lab/space.py": "import helper", "lab/helper.py": ""})
    write(tmp_path, {"data/a/table.csv": "1"})
    package = Package(tmp_path / "home")
    assert package.add_code(tmp_path / "lab" / "space.py") == "elsewhere/0/space.py"
    assert package.add_data(tmp_path / "data", "data") == "elsewhere/1/data"
    assert package.add_data(tmp_path / "data" / "a" / "table.csv", "t") == "elsewhere/2/table.csv"
    assert set(package.files) == {
        "elsewhere/0/space.py",
        "elsewhere/0/helper.py",
        "elsewhere/1/data/a/table.csv",
        "elsewhere/2/table.csv",
    }


def test_too_much_is_refused_with_the_sizes_and_the_limit(tmp_path):
    write(tmp_path, {"space.py": ""})
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(LIMIT_BYTES + 1)  # sparse: takes no room
    package = Package(tmp_path)
    package.add_code(tmp_path / "space.py")
    package.check_size()
    package.add_data(tmp_path / "large.bin", "data = 'large.bin'")
    message = r"50 MB \(data = 'large.bin' 50 MB\), and at most 50 MB .* --set data=/shared"
    with pytest.raises(InputError, match=message):
        package.check_size()


def test_a_folder_of_very_many_files_is_not_walked_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(package_module, "_MOST_FILES_MEASURED", 10)
    for number in range(50):
        (tmp_path / f"{number:02d}").write_text("x")
    package = Package(tmp_path)
    package.add_data(tmp_path, "data")
    with pytest.raises(InputError, match="more than 10 files"):
        package.check_size()


names = st.text("abcdefgh", min_size=1, max_size=3).filter(lambda name: not iskeyword(name))
places = st.lists(names, min_size=1, max_size=3).map("/".join)


@settings(max_examples=40, deadline=None)
@given(files=st.dictionaries(places, st.binary(max_size=50), max_size=8))
def test_an_archive_is_a_function_of_names_and_content(tmp_path_factory, files):
    archives = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("files")
        paths = {}
        for number, (place, content) in enumerate(files.items()):
            paths[place] = folder / str(number)
            paths[place].write_bytes(content)
        archives.append(make_archive(paths, {}))
        files = dict(reversed(files.items()))
    assert archives[0] == archives[1]
    with zipfile.ZipFile(io.BytesIO(archives[0])) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files


@settings(max_examples=40, deadline=None)
@given(
    modules=st.dictionaries(names, st.sets(names, max_size=4), min_size=1, max_size=6),
    data=st.data(),
)
def test_what_is_imported_is_the_closure(tmp_path_factory, modules, data):
    folder = tmp_path_factory.mktemp("modules")
    for name, imports in modules.items():
        (folder / f"{name}.py").write_text("".join(f"import {each}\n" for each in imports))
    first = data.draw(st.sampled_from(sorted(modules)))
    expected, todo = set(), [first]
    while todo:
        name = todo.pop()
        if name in modules and name not in expected:
            expected.add(name)
            todo += modules[name]
    found = imported_files(folder / f"{first}.py")
    assert {path.stem for path in found} == expected
