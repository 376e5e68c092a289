"""The means by which commands print for people: tables, values and paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tuning.record.sweep import seen_from_here


def make_table(title: str, *headings: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        min_width=len(title),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def print_all(*things: Any) -> None:
    console = Console(highlight=False, markup=False)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str))


def show(value: Any) -> str:
    """A value in a table: numbers in four digits, None as a dash."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings_table(title: str, values: Mapping[str, Any]) -> Table:
    table = make_table(title, "setting", "value")
    for name, value in values.items():
        table.add_row(name, show(value))
    return table


def thaw_command() -> str:
    """What to type for this program here: under ``uv run`` it is on no path outside of it."""
    return "uv run thaw" if "UV_RUN_RECURSION_DEPTH" in os.environ else "thaw"


def print_next(*commands: str) -> None:
    """What to type next: commands of this program, without its name."""
    print_all("", "next", *(f"  {thaw_command()} {command}" for command in commands))


def near(path: str | Path | None) -> str:
    """A path as seen from here; a dash where there is none."""
    return "–" if path is None else seen_from_here(path)
