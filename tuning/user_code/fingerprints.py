"""What a sweep's numbers depend on beside its configurations, compared from sitting to sitting."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from tuning.record.moved_paths import Moved
from tuning.record.sweep import Sweep
from tuning.user_code.loading import imported_modules

Fingerprints = dict[str, dict[str, str]]  # kind -> what -> digest or version

# kind -> whether a difference changes what trials measure, so that it must be accepted
KINDS = {
    "training file": True,
    "module": True,  # below the training file's folder, that it imports
    "repository": True,  # of a training file: it may import any of it
    "package": True,  # ``trainables``
    "training library": True,
    "data": True,
    "other": False,
}
TRAINING_LIBRARIES = ("torch", "torchvision", "transformers")
OTHER_LIBRARIES = ("ray", "optuna", "mlflow")
_MOST_FILES = 500  # of a repository that are told apart


def take_fingerprints(sweep: Sweep) -> Fingerprints:
    """The fingerprints of all that ``sweep`` would be run with now; its data must be prepared."""
    source = sweep.train_file
    code, space = ("", "") if source is None else _training_and_space(source)
    return {
        "training file": {} if source is None else {source.name: code},
        "module": {} if source is None else _imported_from(source),
        "repository": {} if source is None else _tracked_python_files(source),
        "package": _package_files(),
        "training library": _versions(TRAINING_LIBRARIES),
        "data": dict(sweep.data_fingerprints),
        "other": {
            "python": platform.python_version(),
            "commit": _git(Path.cwd(), "rev-parse", "HEAD").strip(),
            **_versions(OTHER_LIBRARIES),
            **({} if source is None else {f"SPACE of {source.name}": space}),
        },
    }


def differences(old: Fingerprints, new: Fingerprints, moved: Moved) -> tuple[list[str], list[str]]:
    """What differs, a line each: what must be accepted, and what is only worth knowing.

    What only one of the two knows, such as a new file, is no difference; a file that is gone is.
    """
    lines: dict[bool, list[str]] = {True: [], False: []}
    imported = old.get("module", {}).keys() & new["module"].keys()
    for kind, decides in KINDS.items():
        before, now = _at_new_places(old.get(kind, {}), moved), new[kind]
        files_may_go = kind == "module" or (kind in ("repository", "package") and now)
        if kind == "training file" and len(before) == len(now) == 1:
            before = dict(zip(now, before.values(), strict=True))  # whatever its name was
        for name, value in before.items():
            if kind == "repository" and name in imported:
                continue  # told as a module
            if name not in now and files_may_go:
                lines[decides].append(f"{kind}: {name} is gone")
            elif name in now and now[name] != value:
                lines[decides].append(f"{kind}: {name} was {value[:12]}, is {now[name][:12]}")
    return lines[True], lines[False]


def _training_and_space(file: Path) -> tuple[str, str]:
    """Digests of a user's file without its SPACE, and of that alone; of code, not of comments."""
    tree = ast.parse(file.read_bytes())
    spaces = [node for node in tree.body if "SPACE" in _assigned(node)]
    rest = ast.Module([node for node in tree.body if node not in spaces], [])
    return _digest(ast.dump(rest).encode()), _digest("".join(map(ast.dump, spaces)).encode())


def _assigned(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _at_new_places(values: Mapping[str, str], moved: Moved) -> dict[str, str]:
    """The keys of data hold their paths."""
    found = {}
    for name, value in values.items():
        for old, new in moved.items():
            name = name.replace(f'"{old}"', f'"{new}"')
        found[name] = value
    return found


def _package_files() -> dict[str, str]:
    folder = Path(str(files("trainables")))
    found = sorted(folder.rglob("*.py"))
    return {str(path.relative_to(folder)): _digest(path.read_bytes()) for path in found}


def _imported_from(file: Path) -> dict[str, str]:
    """The files below a training file's folder that it imports, at its head or later, by path."""
    folder = file.resolve().parent
    found, left = set(), [file.resolve()]
    while left:
        importing = left.pop()
        for module in imported_modules(importing, folder):
            path = folder.joinpath(*module)
            for candidate in (path.with_suffix(".py"), path / "__init__.py"):
                if candidate.is_file() and candidate not in found and candidate != file.resolve():
                    found.add(candidate)
                    left.append(candidate)
    return {path.relative_to(folder).as_posix(): _blob_id(path.read_bytes()) for path in found}


def _tracked_python_files(file: Path) -> dict[str, str]:
    """Python files of the Git repository around a training file, as they are, by path from it.

    None outside of a repository. Of the file itself more is known, and only its place is here.
    """
    folder = file.resolve().parent
    pattern = ("--", ":/*.py")
    files = {}
    for line in _git(folder, "ls-files", "--full-name", "-s", *pattern).splitlines():
        info, _, name = line.partition("\t")
        files[name] = info.split()[1]  # the content's own digest
    root = Path(_git(folder, "rev-parse", "--show-toplevel").strip() or folder).resolve()
    for name in _git(folder, "diff", "--name-only", *pattern).splitlines():
        path = root / name
        if path.is_file():
            files[name] = _blob_id(path.read_bytes())
        else:
            files.pop(name, None)
    files = {os.path.relpath(root / name, folder): digest for name, digest in files.items()}
    if file.name in files:
        files[file.name] = "the training file"
    if len(files) > _MOST_FILES:
        return {f"{len(files)} files": _digest(repr(sorted(files.items())).encode())}
    return files


def _blob_id(content: bytes) -> str:
    """As Git has it, so that a change that is committed meanwhile is none."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _git(folder: Path, *arguments: str) -> str:
    """What Git prints; nothing where it fails or is not installed."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in names}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def describe_differences(lines: list[str], limit: int = 12) -> str:
    """Lines for a person, at most ``limit`` of them."""
    shown = [f"  {line}" for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"  and {len(lines) - limit} more")
    return "\n".join(shown)
