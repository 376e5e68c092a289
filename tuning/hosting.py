"""Hosts a training function for one trial, step by step; the same code under every engine."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainables.errors import DamagedCheckpoint, InputError, OutOfMemory, TrialInfeasible
from trainables.files import restore_folder, whole_folder
from trainables.metrics import Direction
from trainables.process_state import ProcessState
from trainables.task import EpochReport, Strategy, TrainingRun
from tuning.record import TrialState
from tuning.spaces import training_function

BEST, LAST = (
    "best",
    "last",
)  # a trial's checkpoints: of its best epoch, and the newest for going on from
_PROGRESS_FILE = "progress.json"  # beside a checkpoint's own files: epoch and value


@dataclass(frozen=True)
class Assignment:
    """All that a worker needs to run one trial. Plain values, so that it travels anywhere."""

    trial: int
    config: Mapping[str, Any]
    task: str | None
    train_file: str | None
    trial_folder: str
    cache_folder: str
    metric: str
    mode: Direction
    save_beyond: float | None  # a checkpoint not better than this would be deleted at once
    device: str
    cpus: float
    gpus: float
    n_threads: int
    seconds_between_checkpoints: float
    prefix_cache_bytes: int | None = None  # this and the next as TrainingRun has them
    data_fingerprint: str | None = None
    save_after: Sequence[int] = ()  # epochs after which the trial may be frozen
    other_metrics: tuple[str, ...] = ()  # of further objectives
    strategy: Strategy = "ddp"  # of several workers

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class EpochResult:
    """One epoch of a trial, as the engine hears of it."""

    epoch: int
    metrics: Mapping[str, float]
    note: str | None = None  # what went wrong without ending the trial
    tags: Mapping[str, str] = field(default_factory=dict)  # said of the trial as a whole so far


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: TrialState
    error: str | None = None
    out_of_memory: bool = False


def _decided_here(decision: Any) -> Any:
    return decision


@dataclass(frozen=True)
class Place:
    """Which of the workers that train a trial together this is."""

    rank: int = 0
    world_size: int = 1
    device: str | None = None  # the worker's own; None: as the assignment says
    # (what rank 0 has decided; of others it does not matter) -> that, once every worker is here
    share: Callable[[Any], Any] = _decided_here


class TrialHost:
    """Runs one trial's training function; ``step`` never raises.

    Each of several workers has one, and they take each step together. The first one's files are the
    trial's, and what is to be decided it decides for all.
    """

    def __init__(
        self, assignment: Assignment, *, owns_process: bool = False, place: Place | None = None
    ) -> None:
        """Host the trial of ``assignment``.

        Args:
            owns_process: nothing but trials runs in this process, so that ``close`` may put back
                all of its state.
            place: the only worker, if it is not given.
        """
        self._owns_process = owns_process
        self._place = place or Place()
        self._assignment = assignment
        self._folder = Path(assignment.trial_folder)
        self._sign = 1 if assignment.mode == "max" else -1
        self._best: float | None = None
        self._saved_at = time.monotonic()
        self._curve: dict[int, dict[str, float]] = {}
        # Epochs behind the checkpoint gone on from: their reports may have met a dead driver.
        self._replayed: list[tuple[int, dict[str, float]]] = []
        self._generator: Iterator[EpochReport] | None = None
        self._process_state: ProcessState | None = None
        self._resumable: list[Path] = []
        self._resume_from: Path | None = None
        if self._place.rank == 0:
            for name in (BEST, LAST):
                restore_folder(self._folder / name)
            self._resumable = checkpoints_of(self._folder)
        self._trouble: list[str] = []  # to be noted with the next report

    def step(self) -> EpochResult | Outcome:
        """Train one more epoch, and save a checkpoint if it may be needed."""
        try:
            if self._generator is None:
                self._generator = self._start()
            if self._replayed:
                return EpochResult(*self._replayed.pop(0), self._take_trouble())
            report = next(self._generator, None)
            if report is None:
                return self._completed()
            metrics, target = self._judge(report)
            self._curve[report.epoch] = metrics
            if target is not None and (note := self._save(report, target)):
                self._trouble.append(note)
            return EpochResult(report.epoch, metrics, self._take_trouble(), dict(report.tags))
        except DamagedCheckpoint as error:
            if self._resume_from is None:
                return Outcome("failed", traceback.format_exc())
            self._place.share(None)  # nobody reads it any more
            if self._place.rank == 0:
                self._put_away_damaged(error)
            self._generator = None
            return self.step()
        except TrialInfeasible as error:
            reason = f"{type(error).__name__}: {error}"
            return Outcome("infeasible", reason, isinstance(error, OutOfMemory))
        except InputError as error:
            return Outcome("failed", str(error))
        except Exception as error:
            # torch's own, of a user's training
            out_of_memory = type(error).__name__ == "OutOfMemoryError"
            return Outcome("failed", traceback.format_exc(), out_of_memory)

    def _put_away_damaged(self, error: DamagedCheckpoint) -> None:
        """Go on from an older one, or from the start. Its value must not keep a good one away."""
        damaged = self._resumable.pop(0)
        shutil.rmtree(damaged.with_suffix(".damaged"), ignore_errors=True)
        damaged.rename(damaged.with_suffix(".damaged"))
        left = f"the checkpoint {str(self._resumable[0])!r}" if self._resumable else "the start"
        self._trouble.append(f"{error}; it goes on from {left}")

    def close(self) -> str | None:
        """Stop the training function and put the process back as it was before.

        Returns:
            What could not be put back, so that no other trial should run here; None if all was.
        """
        close = getattr(self._generator, "close", None)
        self._generator = None
        if close is not None:
            close()
        state, self._process_state = self._process_state, None
        return None if state is None else state.restore()

    def _start(self) -> Iterator[EpochReport]:
        assignment = self._assignment
        train = training_function(assignment.task, assignment.train_file)
        if self._process_state is None:  # what the training imports is part of it
            self._process_state = ProcessState(is_shared=not self._owns_process)
        best = _progress(self._folder / BEST)
        self._best = None if best is None else best["value"]
        newest = _progress(self._resumable[0]) if self._resumable else None
        known = {} if newest is None else newest["curve"]
        chosen = self._resumable[0] if self._resumable else None
        self._resume_from, known = self._place.share((chosen, known))
        self._curve = {int(epoch): metrics for epoch, metrics in known.items()}
        self._replayed = sorted(self._curve.items())
        run = TrainingRun(
            cache_folder=Path(assignment.cache_folder),
            device=self._place.device or assignment.device,
            rank=self._place.rank,
            world_size=self._place.world_size,
            strategy=assignment.strategy,
            n_threads=assignment.n_threads,
            prefix_cache_bytes=assignment.prefix_cache_bytes,
            data_fingerprint=assignment.data_fingerprint,
            resume_from=self._resume_from,
        )
        return iter(train(assignment.config, run))

    def _take_trouble(self) -> str | None:
        notes, self._trouble = self._trouble, []
        return "; ".join(notes) or None

    def _completed(self) -> Outcome:
        if not self._curve:
            return Outcome("failed", "the training function ended without a single epoch report")
        return Outcome("completed")

    def _check(self, report: EpochReport) -> dict[str, float]:
        if not isinstance(report, EpochReport):
            raise InputError(
                f"the training function yielded a {type(report).__name__}; "
                "it must yield EpochReport"
            )
        metrics = {name: float(value) for name, value in report.metrics.items()}
        for metric in (self._assignment.metric, *self._assignment.other_metrics):
            if metric not in metrics:
                raise InputError(
                    f"metric {metric!r} is not in the epoch report; "
                    f"reported: {', '.join(sorted(metrics))}"
                )
            if not math.isfinite(metrics[metric]):
                raise TrialInfeasible(f"{metric} is {metrics[metric]} after epoch {report.epoch}")
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        return {**_gpu_memory(), **metrics}

    def _judge(self, report: EpochReport) -> tuple[dict[str, float], str | None]:
        """The report's metrics, and whether to save to ``best``, ``last`` or not at all.

        What is wrong with the report is raised in every worker.
        """
        verdict: Any = None
        if self._place.rank == 0:
            try:
                verdict = self._check(report), self._target(report)
            except (InputError, TrialInfeasible) as error:
                verdict = error
        verdict = self._place.share(verdict)
        if isinstance(verdict, Exception):
            raise verdict
        metrics, target = verdict
        return metrics, target

    def _target(self, report: EpochReport) -> str | None:
        value = report.metrics[self._assignment.metric]
        target = None
        if self._best is None or self._sign * value > self._sign * self._best:
            self._best = value
            beyond = self._assignment.save_beyond
            if beyond is None or self._sign * value > self._sign * beyond:
                target = BEST
        waited = time.monotonic() - self._saved_at
        is_due = waited >= self._assignment.seconds_between_checkpoints
        if target is None and (is_due or report.epoch in self._assignment.save_after):
            target = LAST
        return target

    def _save(self, report: EpochReport, target: str) -> str | None:
        """Save a report; a disk that refuses is a note, not the end."""
        if self._place.rank != 0:
            if self._assignment.strategy == "fsdp":
                save_share(report)
            return None
        value = report.metrics[self._assignment.metric]
        try:
            save_report(report, self._folder / target, value, self._curve)
        except OSError as error:
            return f"checkpoint {str(self._folder / target)!r} was not written: {error}"
        self._saved_at = time.monotonic()
        return None


def _gpu_memory() -> dict[str, float]:
    """What the GPU has and what tensors took of it at their peak; nothing where none is used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {
        "gpu_memory_bytes": float(torch.cuda.get_device_properties(0).total_memory),
        "peak_memory_bytes": float(torch.cuda.max_memory_allocated()),
    }


def save_report(
    report: EpochReport, folder: Path, value: float, curve: Mapping[int, Mapping[str, float]]
) -> None:
    """Save a report's state to ``folder``, whole or not at all, its epoch and value beside it."""
    with whole_folder(folder) as partial:
        report.save(partial)
        (partial / _PROGRESS_FILE).write_text(
            json.dumps({"epoch": report.epoch, "value": value, "curve": curve})
        )


def save_share(report: EpochReport) -> None:
    """Take part in saving a model of which each worker has a share; the first one writes it."""
    with tempfile.TemporaryDirectory(prefix="thaw-share-") as unused:
        report.save(Path(unused))


def checkpoints_of(trial_folder: Path) -> list[Path]:
    """The checkpoints of a trial, the one with the most epochs behind it first."""
    found = {}
    for name in (LAST, BEST):
        progress = _progress(trial_folder / name)
        if progress is not None:
            found[trial_folder / name] = progress["epoch"]
    return sorted(found, key=lambda folder: -found[folder])


def _progress(folder: Path) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = json.loads((folder / _PROGRESS_FILE).read_text())
        return values
    except (OSError, ValueError):
        return None
