"""What an examination has found: what is wrong, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``mend`` says what to do about it, unless it is ok."""

    check: str
    state: State
    what: str
    mend: str = ""
    node: str | None = None  # its address; None where it concerns no single node


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether nothing is wrong; a warning is not."""
    return all(finding.state != "wrong" for finding in findings)


def to_document(findings: Iterable[Finding]) -> dict[str, Any]:
    """The findings as one JSON document."""
    found = list(findings)
    return {"well": is_well(found), "findings": [asdict(finding) for finding in found]}
