"""What the declarations of options are good for: how one is written, read and checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from trainables.errors import InputError, unknown
from tuning.record.methods import COST_AWARE_NAMES, OF_ONE_OBJECTIVE, SEARCHERS
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
    for message in _conflicts(options):
        raise InputError(message)


def _conflicts(options: SweepOptions) -> Iterator[str]:
    """What is wrong with values beside each other."""
    n_metrics, n_workers = len(options.metrics), options.n_workers
    if n_metrics > 1 and options.searcher in OF_ONE_OBJECTIVE:
        valid = ", ".join(name for name in SEARCHERS if name not in OF_ONE_OBJECTIVE)
        yield (
            f"--searcher {options.searcher}: searches by one metric, and {n_metrics} are given; "
            f"valid for several: {valid}"
        )
    if options.cost_aware and options.searcher not in (None, *COST_AWARE_NAMES):
        yield (
            f"--cost-aware: --searcher {options.searcher} can not weigh what a trial costs; "
            f"valid: {', '.join(COST_AWARE_NAMES)}"
        )
    if options.cost_aware and n_metrics > 1:
        yield (
            f"--cost-aware: weighs the cost against one metric, and {n_metrics} are given by "
            "--metric; valid: one of them, or no --cost-aware"
        )
    if n_workers > 1 and options.engine == "inprocess":
        yield (
            f"--workers = {n_workers}: --engine inprocess has one process; valid: 1, or "
            "--engine ray"
        )
    if n_workers == 1 and options.strategy != "ddp":
        yield (
            f"--strategy {options.strategy}: shares a model out over several workers, and "
            "--workers = 1; valid: --workers 2 or more"
        )
    if n_workers > 1 and options.gpus_per_trial not in (None, 0, 1):
        yield (
            f"--gpus-per-trial = {options.gpus_per_trial}: with --workers = {n_workers} it counts "
            "for each worker, and workers of one trial can not share a GPU; valid: 0 or 1"
        )
