"""The layout's rules: which room may import what, and that importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from helpers import ROOT

ROOMS = ("search_spaces", "trainables", "tuning")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
FORBIDDEN = {
    "search_spaces": {"trainables", "tuning"},
    "trainables": {"search_spaces", "tuning", "ray", "optuna", "mlflow"},
    "tuning": set(),
}
# Floor by floor: a folder may import from those before it, never from those after it.
FLOORS = {
    "trainables": (
        "", "data", "targets", "adapting", "modalities", "training", "tasks",
    ),
    "tuning": (
        "record", "storage", "user_code", "search", "hosting", "control", "tracking", "engines",
        "before_start", "session", "after", "doctor", "clusters", "command_line", "scripting",
        "",
    ),
}  # fmt: skip
# Every search space begins with `from search_spaces.domains import …`, whichever file defines what.
RE_EXPORTS = ROOT / "search_spaces" / "domains" / "__init__.py"
HEAVY = {"torch", "torchvision", "transformers", "ray", "optuna", "mlflow", "sklearn"}


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add((node.module or "").split(".")[0])
    return names


def floor_of(module: str) -> str:
    """The folder of a room that a module lies in; empty for one that lies in the room itself."""
    parts = module.split(".")
    return parts[1] if (ROOT / parts[0] / parts[1]).is_dir() else ""


def modules_imported(tree: ast.AST) -> set[str]:
    """Our own modules that a file imports, at its top or anywhere within it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if ROOT.joinpath(*name.split(".")).with_suffix(".py").is_file()}


def test_the_rooms_are_found():
    assert len(FILES) > 40
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(ROOMS)
    for room, floors in FLOORS.items():
        folders = {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}
        assert folders == set(floors) - {""}


@pytest.mark.parametrize("room", FLOORS)
def test_folders_import_only_from_floors_below(room):
    floors, n_found = FLOORS[room], 0
    for path in sorted((ROOT / room).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for other in modules_imported(ast.parse(path.read_text())):
            if other.startswith(f"{room}."):
                n_found += 1
                below = floors.index(floor_of(other)) <= floors.index(floor_of(module))
                assert below, f"{module} imports {other}, which lies on a floor above it"
    assert n_found > 60


def test_folders_stay_small():
    for room in ROOMS:
        for folder in {path.parent for path in FILES if path.is_relative_to(ROOT / room)}:
            files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= 16, f"{folder.relative_to(ROOT)} has {len(files)} files"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_go_one_way(path):
    names = imported(ast.parse(path.read_text()))
    room = path.relative_to(ROOT).parts[0]
    assert not names & FORBIDDEN[room]
    if room == "search_spaces":
        assert names <= {*sys.stdlib_module_names, "search_spaces"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_module_has_a_docstring_and_does_nothing_when_imported(path):
    tree = ast.parse(path.read_text())
    if path == RE_EXPORTS:
        assert ast.get_docstring(tree)
        assert all(isinstance(n, ast.Expr | ast.ImportFrom | ast.Assign) for n in tree.body)
        return
    if path == ROOT / "tuning" / "__init__.py":  # the Python interface, looked up when it is used
        assert imported(tree) <= {"__future__", "typing", "trainables", "tuning"}
    elif path.name == "__init__.py":
        assert not tree.body
        return
    assert ast.get_docstring(tree)
    if path.name != "served_model.py":  # MLflow's models from code must act; see there
        calls = [
            node
            for node in tree.body
            if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
        ]
        assert not calls


LIGHT_PROGRAM = """
import sys
sys.argv = ["thaw", *{arguments!r}]
from tuning.command_line.cli import main
try:
    main()
except SystemExit as stop:
    assert stop.code == {code}, stop.code
found = {heavy!r} & set(sys.modules)
assert not found, found
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["sweep", "--help"], 0),
        (["spaces"], 0),
        (["spaces", "digits"], 0),
        (["tasks"], 0),
        (["sweep", "digit"], 2),
        (["sweep", "digits", "--set", "epochs=none"], 2),
        (["sweep", "digits", "--dry-run"], 0),  # though it prepares the data
        (["trials", "nothing"], 2),
        (["best", "nothing"], 2),
        (["submit", "--help"], 0),
        (["submit", "digits", "--dry-run"], 0),
        (["submit", "digits", "--set", "epochs=none"], 2),
        (["submit", "digits", "--address", "127.0.0.1:9"], 2),
        (["status", "nothing", "--address", "127.0.0.1:9"], 2),
    ],
    ids=str,
)
def test_help_and_errors_import_nothing_heavy(tmp_path, arguments, code):
    heavy = HEAVY
    if "--dry-run" in arguments:  # the first check of an image model on a machine makes it
        heavy = HEAVY - {"torch", "torchvision"}
    program = LIGHT_PROGRAM.format(arguments=arguments, code=code, heavy=heavy)
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=60)
