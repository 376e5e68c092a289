"""Trains configurations with several seeds under Ray Train, and reads back what came of it."""

from __future__ import annotations

import base64
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainables.errors import InputError, RunFailed
from tuning.after.workers import (
    CURVE_FILE,
    ERROR_FILE,
    TEST_FILE,
    Repetition,
    best_key,
    seed_key,
    train_all,
)
from tuning.control.view import View
from tuning.engines.ray_environment import prepare_ray
from tuning.hosting.node_needs import Needs
from tuning.record.resources import Node, Resources, share_out
from tuning.record.sweep import Sweep
from tuning.storage.code_archive import digest_of, pack_code
from tuning.storage.open_store import StoreAddress, share, store_of
from tuning.storage.stores import CheckpointStore

_SECONDS_BETWEEN_LOOKS, _SECONDS_BETWEEN_REMOTE_LOOKS = 1.0, 5.0


@dataclass(frozen=True)
class SeedResult:
    """One training of a configuration."""

    seed: int
    value: float  # best value of the sweep's metric
    curve: Mapping[int, Mapping[str, float]]
    test: Mapping[str, float] | None
    artifacts: dict[str, bytes]  # of the test: a file's name -> its content
    checkpoint: str  # where it is, for a person
    key: str  # of it, in the sweep's store


@dataclass(frozen=True)
class Training:
    """A configuration to train with several seeds."""

    name: str  # for a person
    config: Mapping[str, Any]
    seeds: list[int]
    key: str  # of what it leaves, in the sweep's store
    may_fail: bool = False  # then its results are None, and the others stand


def train(
    sweep: Sweep, trainings: list[Training], n_workers: int, view: View
) -> list[list[SeedResult] | None]:
    """Train all under Ray Train, one after the other; the test split is read at the very end.

    The reason of a failure is written beside what the first of them leaves.

    Returns:
        Of each training the results of its seeds; None if it may fail and did.

    Raises:
        InputError: the workers do not fit, or a node lacks what they need.
        RunFailed: a training failed that may not.
    """
    prepare_ray()
    from tuning.engines import ray_start

    view.say("starting ray …")
    alive = ray_start.start(sweep)
    try:
        nodes = ray_start.largest_extent(alive, ray_start.to_come(sweep))
        resources = _worker_resources(sweep, nodes, n_workers)
        names = " and ".join(training.name for training in trainings)
        view.say(
            f"training {names} with {len(trainings[0].seeds)} seeds, "
            f"{n_workers} workers of {resources.cpus_per_trial:g} CPUs each …"
        )
        with share(sweep) as address:
            needs = _check_nodes(sweep, address, resources, view)
            repetitions = [
                _repetition(sweep, training, resources, address, needs) for training in trainings
            ]
            with _progress(sweep, trainings, view):
                _fit(repetitions, resources, n_workers)
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        store, path = store_of(sweep), f"{trainings[0].key}/{ERROR_FILE}"
        with suppress(OSError):
            store.write(path, str(error).encode())
        reason = str(error).strip().splitlines()[-1]
        raise RunFailed(f"retraining failed: {reason}; details in {store.name(path)!r}") from error
    finally:
        ray_start.disconnect()
    store = store_of(sweep)
    return [
        None
        if store.read(f"{training.key}/{ERROR_FILE}") is not None
        else [_read(store, training.key, seed, sweep) for seed in training.seeds]
        for training in trainings
    ]


def _check_nodes(
    sweep: Sweep, address: StoreAddress, resources: Resources, view: View
) -> Needs | None:
    """What workers on other machines need, once it is seen that they have it."""
    if not address.has_other_nodes:
        return None
    from tuning.engines.node_checks import check_nodes, needs_of

    needs = needs_of(sweep)
    check_nodes(sweep, address, needs, gpus=resources.gpus_per_trial > 0, say=view.say)
    if sweep.train_file is None:
        return needs
    return replace(needs, code=digest_of(pack_code(sweep.train_file)))


def _repetition(
    sweep: Sweep,
    training: Training,
    resources: Resources,
    address: StoreAddress,
    needs: Needs | None,
) -> Repetition:
    return Repetition(
        config=dict(training.config),
        seeds=training.seeds,
        task=sweep.space.task,
        train_file=None if sweep.train_file is None else str(sweep.train_file),
        key=training.key,
        store=address.to_json(),
        cache_folder=str(sweep.cache_folder),
        metric=sweep.metric,
        mode=sweep.mode,
        n_threads=resources.slot().n_threads,
        device="cuda" if resources.gpus_per_trial else "cpu",
        prefix_cache_bytes=sweep.prefix_cache_bytes,
        strategy=sweep.strategy,
        may_fail=training.may_fail,
        needs=None if needs is None else needs.to_json(),
        data_fingerprint=sweep.data_fingerprint(training.config),
    )


def _worker_resources(sweep: Sweep, nodes: Sequence[Node], n_workers: int) -> Resources:
    """As many workers as a trial had get what its got, so that the first seed repeats it.

    Another number of them shares all that there is.
    """
    return share_out(
        nodes,
        n_workers=n_workers,
        cpus_per_trial=sweep.cpus_per_trial,
        gpus_per_trial=None if sweep.gpus_per_trial == "auto" else sweep.gpus_per_trial,
        concurrency=None if n_workers == sweep.n_workers else 1,
    )


@contextmanager
def _progress(sweep: Sweep, trainings: list[Training], view: View) -> Iterator[None]:
    """Say each epoch as the first worker writes it down."""
    done = threading.Event()
    said: set[tuple[str, str]] = set()
    store, metric = store_of(sweep), sweep.metric
    seconds = _SECONDS_BETWEEN_LOOKS if sweep.home is None else _SECONDS_BETWEEN_REMOTE_LOOKS

    def look() -> None:
        for training, seed in ((each, seed) for each in trainings for seed in each.seeds):
            key = seed_key(training.key, seed)
            curve = json.loads(store.read(f"{key}/{CURVE_FILE}") or b"{}")
            for epoch, metrics in curve.items():
                if (key, epoch) not in said:
                    said.add((key, epoch))
                    value = f"{metric} {metrics[metric]:.4f}"
                    view.say(f"{training.name}, seed {seed}, epoch {epoch}: {value}")

    def follow() -> None:
        while not done.wait(seconds):
            with suppress(OSError):  # the sweep's home does not answer
                look()
        with suppress(OSError):
            look()

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _fit(repetitions: list[Repetition], resources: Resources, n_workers: int) -> None:
    import ray.train

    from tuning.engines.gang_pool import OwnedTrainer, WorkerConnections

    per_worker = {"CPU": resources.cpus_per_trial}
    if resources.gpus_per_trial:
        per_worker["GPU"] = resources.gpus_per_trial
    with tempfile.TemporaryDirectory(prefix="thaw-ray-train-") as books:
        OwnedTrainer(
            train_all,
            torch_config=WorkerConnections(),
            train_loop_config={"repetitions": [asdict(each) for each in repetitions]},
            scaling_config=ray.train.ScalingConfig(
                num_workers=n_workers,
                use_gpu=bool(resources.gpus_per_trial),
                resources_per_worker=per_worker,
            ),
            run_config=ray.train.RunConfig(
                name="retrain",
                storage_path=books,
                # By default Ray tries for ever to start workers. One try may wait for nodes to
                # come: see RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S in runner.py.
                failure_config=ray.train.FailureConfig(controller_failure_limit=3),
            ),
        ).fit()


def _read(store: CheckpointStore, key: str, seed: int, sweep: Sweep) -> SeedResult:
    folder = seed_key(key, seed)
    written = json.loads(store.read(f"{folder}/{CURVE_FILE}") or b"{}")
    curve = {int(epoch): metrics for epoch, metrics in written.items()}
    test = json.loads(store.read(f"{folder}/{TEST_FILE}") or b"null")
    best = best_key(key, seed)
    values = [metrics[sweep.metric] for metrics in curve.values()]
    return SeedResult(
        seed=seed,
        value=max(values) if sweep.mode == "max" else min(values),
        curve=curve,
        test=None if test is None else test["metrics"],
        artifacts={} if test is None else _decoded(test["artifacts"]),
        checkpoint=store.find(best) or store.name(best),
        key=best,
    )


def _decoded(artifacts: Mapping[str, str]) -> dict[str, bytes]:
    return {name: base64.b64decode(content) for name, content in artifacts.items()}
