"""What is checked from a worker on each node before a sweep starts: its folder, data and files."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import InputError
from trainables.files import write_whole
from trainables.tasks.table import task_row
from tuning.hosting.node_needs import (
    Needs,
    Unfit,
    check_fitness,
    digest_of_path,
    here,
    paths_of,
    what_decides,
)
from tuning.record.sweep import Sweep
from tuning.search.starting_points import configurations
from tuning.storage.open_store import StoreAddress, open_store
from tuning.storage.relay import RelayStore

Say = Callable[[str], None]

_SECONDS_BETWEEN_SIGNS = 30.0
_MOST_TOLD = 5  # nodes: the others likely have the same trouble


@dataclass(frozen=True)
class _Look:
    """What a worker is to look for."""

    address: StoreAddress
    task: str | None
    trainings: list[tuple[dict[str, Any], str | None]]  # configuration, its data's fingerprint
    needs: Needs


@dataclass
class _Answer:
    """What a worker has found."""

    node: str
    is_relayed: bool = False  # its checkpoints take the way through Ray
    problem: str | None = None


def needs_of(sweep: Sweep) -> Needs:
    """What the driver's machine has of the files that a sweep's configurations name."""
    if sweep.space.task is None:
        return Needs()
    row = task_row(sweep.space.task)
    paths = {path for config in configurations(sweep) for path in paths_of(config, row).values()}
    return Needs(digests={path: digest_of_path(Path(path)) for path in sorted(paths)})


def check_nodes(sweep: Sweep, address: StoreAddress, needs: Needs, *, gpus: bool, say: Say) -> None:
    """Have a worker on each node that may run trials see that it can.

    Where the cluster starts from nothing, no node is there yet: each trial looks when its process
    begins.

    Args:
        gpus: whether trials get any, so that nodes without one do not matter.

    Raises:
        InputError: a node can not run trials; the message names it, the reason and what to do.
    """
    import ray

    kind = "GPU" if gpus else "CPU"
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get(kind, 0) > 0]
    look = _Look(address, sweep.space.task, _trainings(sweep), needs)
    answers = _ask(nodes, look, say)
    problems = [answer.problem for answer in answers if answer.problem is not None]
    if problems:
        more = f"\nand {len(problems) - _MOST_TOLD} more" if len(problems) > _MOST_TOLD else ""
        raise InputError("\n".join(problems[:_MOST_TOLD]) + more)
    _tell_who_is_relayed(sweep, answers, say)


def _trainings(sweep: Sweep) -> list[tuple[dict[str, Any], str | None]]:
    """One configuration for each set of data and files."""
    if sweep.space.task is None:
        return []
    row = task_row(sweep.space.task)
    found = {str(what_decides(config, row)): config for config in configurations(sweep)}
    return [(config, sweep.data_fingerprint(config)) for config in found.values()]


def _ask(nodes: list[dict[str, Any]], look: _Look, say: Say) -> list[_Answer]:
    """What each node's worker answers; nodes that are lost meanwhile are left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(_look_here)
    waiting = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        waiting[task.options(num_cpus=0, scheduling_strategy=there).remote(look)] = node
    answers = []
    while waiting:
        ready, _ = ray.wait(list(waiting), timeout=_SECONDS_BETWEEN_SIGNS)
        for each in ready:
            node = waiting.pop(each)
            try:
                answers.append(ray.get(each))
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                say(f"node {node['NodeManagerAddress']} could not be asked, and is lost: {reason}")
        if not ready:
            names = ", ".join(node["NodeManagerHostname"] for node in waiting.values())
            say(f"still preparing data on {names} …")
    return answers


def _look_here(look: _Look) -> _Answer:
    """Runs in a worker: its node, how it reaches the sweep's checkpoints, and what is wrong."""
    answer = _Answer(here())
    try:
        store = open_store(look.address)
        answer.is_relayed = isinstance(store, RelayStore)
        key = f".probe-{secrets.token_hex(4)}"
        store.put(f"{key}/probe", lambda folder: write_whole(folder / "probe", "can it be?"))
        store.clear(key)
        for config, fingerprint in look.trainings:
            cache_folder = Path(look.address.cache_folder)
            check_fitness(look.task, config, fingerprint, look.needs, cache_folder)
    except Unfit as error:
        answer.problem = str(error)
    except OSError as error:
        answer.problem = f"{here()}: checkpoints can not be written: {error}"
    return answer


def _tell_who_is_relayed(sweep: Sweep, answers: list[_Answer], say: Say) -> None:
    """Say which nodes' checkpoints take the way through Ray."""
    relayed = [answer.node.removeprefix("node ") for answer in answers if answer.is_relayed]
    if relayed:
        names = ", ".join(relayed[:_MOST_TOLD]) + (" …" if len(relayed) > _MOST_TOLD else "")
        say(
            f"checkpoints come through Ray to this machine's {str(sweep.folder)!r} from "
            f"{len(relayed)} of {len(answers)} nodes, which do not share it: {names}"
        )
