"""The gangs of a sweep: groups of workers that Ray Train starts, and that stay over many trials.

One ``TorchTrainer`` per gang, not per trial: starting one takes as long as many a trial. They run
in threads of the driver, so that a trial's relay in Ray Tune may die and leave no workers behind.
Total demand is never more than fits: the pool has at most as many gangs as trials may run at once,
and all else here takes no CPU.
"""

from __future__ import annotations

import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.util.placement_group import PlacementGroup, remove_placement_group

from tuning.engines import gang_coordinator
from tuning.engines.gang_coordinator import Exchange
from tuning.engines.gang_worker import name_network_interface, serve
from tuning.record.resources import Resources

# Starts in a row of which none brought up all workers, for other reasons than lack of room.
_MOST_FAILED_STARTS = 3
_SECONDS_TO_END = 20.0
_NO_ROOM = "WorkerGroupStartupTimeoutError"  # its name, which Ray does not export
_QUIET = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0"}  # as Ray itself starts such an actor


class OwnedTrainer(TorchTrainer):
    """A trainer for which the driver answers: it may end it, and frees its place.

    It tells which actor controls the run, so that this can be ended while it waits for room. It
    leaves out a process of 0.6 GB per run that frees the place when that actor has died: that needs
    Ray's dashboard, without which a run takes ten seconds longer to end, and outlives the driver.
    """

    def __init__(
        self, *args: Any, on_start: Callable[[Any], None] = lambda actor: None, **kwargs: Any
    ) -> None:
        """As a ``TorchTrainer``; ``on_start`` is called with the actor, before it does anything."""
        super().__init__(*args, **kwargs)
        self._on_start = on_start

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, PlacementGroupCleanerCallback)]

    def _initialize_and_run_controller(self, **arguments: Any) -> ray.train.Result:
        controller = (
            ray.remote(TrainController)
            .options(
                num_cpus=0,
                label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
                runtime_env={"env_vars": {**_QUIET, **get_env_vars_to_propagate()}},
            )
            .remote(**arguments)
        )
        self._on_start(controller)
        ray.get(controller.run.remote())
        result: ray.train.Result = ray.get(controller.get_result.remote())
        return result


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Connects workers over the network that Ray uses.

    Gloo takes what the host's name resolves to. Where that is a loopback address, as on Debian,
    workers on other hosts are out of reach.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(name_network_interface)
        super().on_start(worker_group, backend_config)


class WorkerConnections(TorchConfig):
    """How Ray Train connects workers: NCCL on GPUs, else gloo."""

    @property
    def backend_cls(self) -> type[Any]:
        return _Backend


class GangPool:
    """Keeps as many gangs as trials may run at once, replacing those that end."""

    def __init__(self, resources: Resources, *, most: int) -> None:
        """Begin to start gangs.

        Args:
            most: that there is work for.
        """
        self._resources = resources
        self._is_closed = False
        self._n_given_up = 0  # places where no gang can be started
        self._threads: list[threading.Thread] = []
        self._controllers: dict[str, Any] = {}  # by gang; actors of Ray Train
        self.exchange_name = f"thaw-exchange-{uuid.uuid4().hex[:12]}"
        here = ray.get_runtime_context().get_node_id()
        # Beside the driver: it has to be there as long as that is, and no longer.
        self._exchange = (
            ray.remote(Exchange)
            .options(
                name=self.exchange_name,
                num_cpus=0,
                max_concurrency=10_000,  # most calls wait
                label_selector={"ray.io/node-id": here},
            )
            .remote(resources.n_workers, gang_coordinator.GRACE_SECONDS)
        )
        self._books = tempfile.TemporaryDirectory(prefix="thaw-ray-train-")
        self.grow(min(resources.concurrency, most))

    def grow(self, n: int) -> None:
        """Have ``n`` gangs or more; fewer come by themselves, as nodes go."""
        for number in range(len(self._threads), n):
            thread = threading.Thread(target=self._keep, args=(number,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def give_up(self, trial: int) -> None:
        """End the gang that trains a trial, if there is one."""
        self._exchange.give_up.remote(trial)

    def close(self) -> None:
        """Send all workers home, and wait until they have left.

        No thread may be left that asks Ray for something: after its shutdown that ends the process.
        """
        self._is_closed = True
        with suppress(ray.exceptions.RayError):
            leaving = ray.get(self._exchange.close.remote(), timeout=_SECONDS_TO_END)
            self._end_controllers(besides=leaving)  # they may wait for room for a long time
            self._join(_SECONDS_TO_END)
        with suppress(ray.exceptions.RayError):
            self._end_controllers()
            self._join(_SECONDS_TO_END)
            ray.kill(self._exchange)
        with suppress(OSError):
            self._books.cleanup()

    def _end_controllers(self, besides: Collection[str] = ()) -> None:
        for gang, controller in list(self._controllers.items()):
            if gang not in besides:
                ray.kill(controller)

    def _join(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _keep(self, number: int) -> None:
        """Have one gang after another at one place of the pool."""
        n_failed = n = 0
        while not self._is_closed and n_failed < _MOST_FAILED_STARTS:
            n += 1
            gang = f"gang-{number}-{n}"
            error = self._run(gang)
            self._controllers.pop(gang, None)
            try:
                has_been_up, group = ray.get(self._exchange.ended.remote(gang))
            except ray.exceptions.RayError:  # Ray itself is gone
                return
            if group is not None:
                _free(group)
            if has_been_up or error is None:
                n_failed = 0
            elif type(getattr(error, "controller_failure", None)).__name__ != _NO_ROOM:
                n_failed += 1
        if self._is_closed:
            return
        self._n_given_up += 1
        if self._n_given_up == len(self._threads):
            reason = f"its workers could not be started, {n_failed} times in a row: {error}"
            self._exchange.no_more.remote(reason)

    def _run(self, gang: str) -> Exception | None:
        """Start a gang's workers, and return when they have ended; why, if that was no plan."""
        resources = self._resources
        per_worker = {"CPU": resources.cpus_per_trial}
        if resources.gpus_per_trial:
            per_worker["GPU"] = resources.gpus_per_trial
        device = "cuda" if resources.gpus_per_trial else "cpu"
        names = {"exchange": self.exchange_name, "gang": gang}

        def remember(controller: Any) -> None:
            self._controllers[gang] = controller
            if self._is_closed:  # meanwhile: nobody else may know of it
                ray.kill(controller)

        try:
            OwnedTrainer(
                serve,
                on_start=remember,
                torch_config=WorkerConnections(),
                train_loop_config={**names, "device": device},
                scaling_config=ray.train.ScalingConfig(
                    num_workers=resources.n_workers,
                    use_gpu=bool(resources.gpus_per_trial),
                    resources_per_worker=per_worker,
                ),
                run_config=ray.train.RunConfig(
                    name=gang,
                    storage_path=self._books.name,
                    # A gang that has lost a worker is of no use: its trial gets another.
                    failure_config=ray.train.FailureConfig(
                        max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                    ),
                ),
            ).fit()
            return None
        except Exception as error:
            return error


def _free(group: str) -> None:
    """Give back what a gang's workers had, where its controller has not."""
    found = PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group)))
    with suppress(ray.exceptions.RayError):
        remove_placement_group(found)
