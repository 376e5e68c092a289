"""Which versions are installed, to compare two machines. Nothing of them is imported."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path

LIBRARIES = ("ray", "torch", "torchvision", "transformers", "optuna", "mlflow")
DECIDING = ("python", "ray", "thaw")  # what two machines must have alike to work together
ROOMS = ("search_spaces", "trainables", "tuning")


def installed_versions() -> dict[str, str]:
    """Python's, Thaw's and its libraries' versions; ``code`` tells one state of Thaw from another.

    What is not installed is left out.
    """
    versions = {"python": platform.python_version(), "code": code_digest()}
    for name in ("thaw", *LIBRARIES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def differing(here: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    """What differs between the versions of two machines: name -> a phrase that says how.

    Of Python the first two numbers are compared, which decide what can be pickled.
    """

    def shown(versions: Mapping[str, str], name: str) -> str:
        version = versions.get(name, "none")
        return ".".join(version.split(".")[:2]) if name == "python" else version

    pairs = {n: (shown(here, n), shown(there, n)) for n in dict.fromkeys((*DECIDING, *here))}
    return {n: f"{n} {a} here, {b} there" for n, (a, b) in pairs.items() if a != b}


def code_digest() -> str:
    """A digest of Thaw's own Python files: 12 letters."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
