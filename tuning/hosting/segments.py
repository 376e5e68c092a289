"""A training whose settings change in the middle, segment by segment, each from the last one's end.

What a trial of population-based training did over several sittings and processes is done here in
one go: so retraining repeats it, to the last bit where continuing a training equals not having
stopped (see ``trainables/training/loop.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainables.task import EpochReport, TrainingRun
from tuning.storage.stores import CheckpointStore
from tuning.storage.trial_checkpoints import save_share

Train = Callable[[Mapping[str, Any], TrainingRun], Iterator[EpochReport]]


def replay(
    train: Train,
    schedule: Sequence[tuple[int, Mapping[str, Any]]],
    run: TrainingRun,
    store: CheckpointStore,
    key: str,
    *,
    done: int = 0,
) -> Iterator[EpochReport]:
    """Train as ``schedule`` says: from each first epoch on with that configuration.

    Args:
        key: in ``store``, of the checkpoint that one segment hands to the next, on whatever node
            its workers are; it is gone at the end.
        done: epochs behind ``run.resume_from``.
    """
    lasts = [first - 1 for first, _ in schedule[1:]]
    try:
        for (_, config), last in zip(schedule, [*lasts, None], strict=True):
            if last is not None and last <= done:
                continue
            with _closing(train(config, run)) as reports:
                end = yield from _until(last, reports)
                if end is None:
                    return
                run = replace(run, resume_from=_hand_over(end, run, store, key))
    finally:
        if lasts:
            store.release(key)
        if lasts and run.rank == 0:
            store.delete(key)


@contextmanager
def _closing(reports: Iterator[EpochReport]) -> Iterator[Iterator[EpochReport]]:
    """Close a generator at the end of the block; a user's training may be any iterator."""
    try:
        yield reports
    finally:
        close = getattr(reports, "close", None)
        if close is not None:
            close()


def _until(
    last: int | None, reports: Iterator[EpochReport]
) -> Generator[EpochReport, None, EpochReport | None]:
    """Pass reports on until that of epoch ``last``, which is returned; None if it never comes."""
    for report in reports:
        yield report
        if last is not None and report.epoch == last:
            return report
    return None


def _hand_over(report: EpochReport, run: TrainingRun, store: CheckpointStore, key: str) -> Path:
    """Save the state after a report: the first worker writes it, and all may have a part in it."""
    if run.rank == 0:
        store.put(key, report.save)
    else:
        save_share(report)
    if run.world_size > 1:
        import torch

        torch.distributed.barrier()
    folder = store.get(key)
    if folder is None:
        raise OSError(f"checkpoint {store.name(key)!r} is gone")
    return folder
