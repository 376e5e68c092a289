"""What the declarations of options are good for: how one is written, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trainables.errors import InputError, unknown
from tuning.record.options import KEPT_NAMES, OPTIONS, SweepOptions


def flag_of(name: str) -> str:
    """How an option is written on a command line: ``time_budget_seconds`` is ``--time-budget``."""
    plain = name.removeprefix("n_").removesuffix("_seconds").removesuffix("_bytes")
    return OPTIONS[name].flag or f"--{plain.replace('_', '-')}"


def read_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options, where a command line has them as text.

    Raises:
        InputError: a text is no value of its option.
    """
    found = dict(values)
    for name, value in values.items():
        read = OPTIONS[name].read
        if read is not None and isinstance(value, str):
            try:
                found[name] = read(value)
            except ValueError as error:
                raise InputError(f"{flag_of(name)} = {value!r}: {error}") from None
    return found


def check_values(values: Mapping[str, Any]) -> None:
    """Raise InputError where a value breaks its option's rule; None breaks none."""
    for name, value in values.items():
        declared, flag = OPTIONS[name], flag_of(name)
        if value is None:
            continue
        if declared.choices and value not in declared.choices:
            if not (declared.own_file and ":" in value):
                raise InputError(unknown(name, value, declared.choices))
        elif isinstance(value, (int, float)):
            if not math.isfinite(value):
                raise InputError(f"{flag} = {value:g}: must be finite")
            if value < declared.at_least:
                raise InputError(f"{flag} = {value:g}: must be at least {declared.at_least:g}")
            if value <= declared.above:
                raise InputError(f"{flag} = {value:g}: must be greater than {declared.above:g}")


def check_options(options: SweepOptions) -> None:
    """Raise InputError where a value breaks its option's rule, or does not go with the others."""
    check_values({name: getattr(options, name) for name in KEPT_NAMES})
    for declared in OPTIONS.values():
        if declared.conflict is not None and (message := declared.conflict(options)) is not None:
            raise InputError(message)
