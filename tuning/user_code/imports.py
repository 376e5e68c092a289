"""Which modules a user's Python file imports, read from its text: nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def imported_modules(file: Path, folder: Path) -> Iterator[tuple[str, ...]]:
    """The names, in parts, of all that may be a module in a file's import statements.

    ``from a.b import c`` gives a, a.b and a.b.c. A relative import is told from ``folder`` on.
    Nothing of a file that can not be read or parsed: whoever imports it is told.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = file.relative_to(folder).parts[: -node.level] if node.level else ()
            module = (*above, *(node.module or "").split("."))
            modules = [(*module, alias.name) for alias in node.names]
        for parts in modules:
            parts = tuple(part for part in parts if part not in ("", "*"))
            yield from (parts[:n] for n in range(1, len(parts) + 1))
