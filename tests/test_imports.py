"""The layout's rules: which room may import what, and that importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("search_spaces", "trainables", "tuning")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
FORBIDDEN = {
    "search_spaces": {"trainables", "tuning"},
    "trainables": {"search_spaces", "tuning", "ray", "optuna", "mlflow"},
    "tuning": set(),
}
# Within the engine: the folder's own modules, and of the rest what is named here.
WITHIN_TUNING = {
    "search": {"storage": set(), "clusters": set(), "": {"record", "sweep", "spaces"}},
    "storage": {"search": set(), "clusters": set(), "": {"record", "sweep"}},
}
MAY_IMPORT_CLUSTERS = {"cli", "doctor"}
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


def test_the_rooms_are_found():
    assert len(FILES) > 40
    rooms = {path.relative_to(ROOT).parts[0] for path in FILES}
    assert rooms == set(ROOMS)
    folders = {path.parent.name for path in FILES if path.parent.parent.name == "tuning"}
    assert folders == {"search", "storage", "clusters"}


def imported_of_tuning(tree: ast.AST) -> set[tuple[str, str]]:
    """The folder and the name of each module of tuning that a module imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    found = set()
    for parts in (name.split(".") for name in names if name.startswith("tuning.")):
        path = ROOT.joinpath(*parts).with_suffix(".py")
        if path.is_file():
            found.add((parts[1] if len(parts) == 3 else "", parts[-1]))
    return found


def test_the_folders_of_the_engine_depend_one_way():
    n_found = 0
    for path in (ROOT / "tuning").rglob("*.py"):
        folder = path.parent.name if path.parent.name != "tuning" else ""
        for other, name in imported_of_tuning(ast.parse(path.read_text())):
            n_found += 1
            if folder in WITHIN_TUNING and other != folder:
                assert name in WITHIN_TUNING[folder][other], f"{path.name} imports {name}"
            if other == "clusters" and folder == "":
                assert path.stem in MAY_IMPORT_CLUSTERS, f"{path.name} imports {name}"
    assert n_found > 200


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
    if path.name == "__init__.py":
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
from tuning.cli import main
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
        (["sweep", "digits", "--dry-run"], 0),
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
    program = LIGHT_PROGRAM.format(arguments=arguments, code=code, heavy=HEAVY)
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=60)
