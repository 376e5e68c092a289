"""Runs searches on tables, side by side in processes, and keeps what was run in a JSON file."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import runpy
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from curve_tables import Surrogate, load_surrogate
from search_peers import PEERS, Peer
from search_simulator import FULL_TRAININGS, Trajectory, simulate

_N_UNSAVED = 100  # runs after which the file is written


@dataclass(frozen=True)
class Run:
    """One search on one table."""

    table: str  # its path
    searcher: str  # a peer's name, or the path of a Python file that defines make
    n_workers: int
    seed: int
    n_trainings: int = FULL_TRAININGS  # full trainings that the budget would hold

    @property
    def name(self) -> str:
        """What the figures call the searcher."""
        return searcher_name(self.searcher)


def searcher_name(searcher: str) -> str:
    """A peer's own name; of a file, its stem without ``search_``."""
    return searcher if searcher in PEERS else Path(searcher).stem.removeprefix("search_")


def find_searcher(searcher: str) -> Peer:
    """The peer of that name, or what the file defines as ``make``."""
    if searcher in PEERS:
        return PEERS[searcher]
    return Peer(_made(searcher), lambda: "")


@cache
def find_surrogate(table: str) -> Surrogate:
    """Read once in each process."""
    return load_surrogate(Path(table))


@cache
def _made(path: str) -> Any:
    return runpy.run_path(path)["make"]


def execute(run: Run) -> Trajectory:
    """Simulate ``run``."""
    surrogate, peer = find_surrogate(run.table), find_searcher(run.searcher)
    budget_epochs = run.n_trainings * surrogate.n_epochs * peer.budget_factor
    return simulate(
        surrogate, peer.make, n_workers=run.n_workers, seed=run.seed, budget_epochs=budget_epochs
    )


class RunFile:
    """The runs of earlier calls, by what decides their result. ``path`` None: kept nowhere."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        if path is not None and path.is_file():
            self._rows = json.loads(path.read_text())["runs"]

    def get(self, run: Run) -> Trajectory | None:
        """A peer's run, if it is known; a file's searcher may have changed, so that is run anew."""
        row = self._rows.get(_key(run)) if run.searcher in PEERS else None
        return Trajectory(**row) if row else None

    def add(self, run: Run, trajectory: Trajectory) -> None:
        self._rows[_key(run)] = _rounded(asdict(trajectory))

    def write(self) -> None:
        if self._path is not None:
            unfinished = self._path.with_suffix(".part")
            unfinished.write_text(json.dumps({"runs": self._rows}))
            unfinished.replace(self._path)


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    digits = {"seconds": 6, "regrets": 9}
    return {**row, **{name: [round(x, n) for x in row[name]] for name, n in digits.items()}}


def _key(run: Run) -> str:
    version = find_searcher(run.searcher).version() if run.searcher in PEERS else "file"
    parts = (_digest(run.table), run.name, version, run.n_workers, run.seed, run.n_trainings)
    return " | ".join(map(str, parts))


@cache
def _digest(path: str) -> str:
    return f"{Path(path).stem} {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]}"


def list_runs(
    tables: Sequence[str],
    searchers: Sequence[str],
    workers: Sequence[int],
    n_seeds: int,
    n_trainings: int = FULL_TRAININGS,
) -> list[Run]:
    """Every combination."""
    return [
        Run(table, searcher, n_workers, seed, n_trainings)
        for table, n_workers, searcher, seed in itertools.product(
            tables, workers, searchers, range(n_seeds)
        )
    ]


def execute_all(
    runs: Iterable[Run], n_processes: int, file: RunFile
) -> Iterator[tuple[Run, Trajectory]]:
    """Each run and its result, in whatever order they end; known ones first."""
    missing = []
    for run in runs:
        known = file.get(run)
        if known is None:
            missing.append(run)
        else:
            yield run, known
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited: the arrays of a search are small
    try:
        with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
            jobs = {pool.submit(execute, run): run for run in missing}
            for n_done, job in enumerate(as_completed(jobs), start=1):
                file.add(jobs[job], job.result())
                if n_done % _N_UNSAVED == 0 or n_done == len(missing):
                    file.write()
                    print(f"{n_done} of {len(missing)} runs", file=sys.stderr, flush=True)
                yield jobs[job], job.result()
    finally:
        file.write()
