"""The errors a user can cause, and the wording they share.

Every message names the parameter, its value, the rule it breaks and what would be valid. All take
one string, so that they survive pickling between processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """What the user gave is wrong; nothing was started."""


class RunFailed(RuntimeError):
    """What was started has failed; the message says why and where the details are."""


class TrialInfeasible(RuntimeError):
    """This configuration can not be trained here, and trying again would not help."""


class Diverged(TrialInfeasible):
    """The loss is no longer a finite number."""


class OutOfMemory(TrialInfeasible):
    """The device's memory does not suffice even for a micro-batch of one sample."""


class DamagedCheckpoint(InputError):
    """A checkpoint's files are missing, cut short or not what was written."""


def valid_choices(value: object, choices: Iterable[str], limit: int = 12) -> str:
    """The valid choices as text, those closest to ``value`` first, at most ``limit`` of them."""
    names = list(choices)
    close = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    ordered = close + [name for name in names if name not in close]
    return some(ordered, limit)


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few of ``names``, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unknown(kind: str, value: object, choices: Iterable[str]) -> str:
    """The message for a name that is none of ``choices``."""
    return f"unknown {kind} {value!r}; valid: {valid_choices(value, choices)}"
