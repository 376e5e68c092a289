"""What an examination has found: what is wrong, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``mend`` says what to do about it, unless it is ok."""

    check: str
    state: State
    what: str
    mend: str = ""
    node: str | None = None  # its address; None where it concerns no single node
