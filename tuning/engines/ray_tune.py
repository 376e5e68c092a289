"""The engine: a sweep's trials under Ray Tune. Ray asks, the controller answers."""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.execution import tune_controller
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE, _ActorClassCache
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tuning.control.controller import Controller
from tuning.engines import ray_start
from tuning.engines.ray_actors import BEGAN, LOST, RESULT, GangRelay, TrialActor
from tuning.hosting.assignment import Outcome
from tuning.record.resources import fit_to

if TYPE_CHECKING:
    from tuning.engines.gang_pool import GangPool

_SECONDS_BETWEEN_COUNTS = 10.0  # of the nodes


class _Adapter:
    """Pickles as nothing: Ray pickles all it is given, but we restore from the sweep's record."""

    _controller: Controller

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Searcher(_Adapter, Searcher):
    """Gives Ray the controller's next trial, when there is a slot for it."""

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self._controller = controller

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        assignment = self._controller.propose()
        if assignment is not None:
            return dict(vars(assignment))
        return Searcher.FINISHED if self._controller.exhausted else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The callback below says it with its reason."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see ``_Adapter``."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see ``_Adapter``."""


class _Scheduler(_Adapter, FIFOScheduler):
    """Tells the controller of each epoch, and Ray whether the trial goes on."""

    def __init__(self, controller: Controller) -> None:
        super().__init__()
        self._controller = controller

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: Tune starts what is pending anyway, without the walk over all trials of FIFO."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if BEGAN in result:
            self._controller.began(trial.config["trial"])
            return str(TrialScheduler.CONTINUE)
        stop = self._controller.observe(trial.config["trial"], result[RESULT])
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class _Callback(_Adapter, tune.Callback):
    """Tells the controller how trials end, and which nodes there are."""

    def __init__(self, controller: Controller, gangs: GangPool | None) -> None:
        self._controller = controller
        self._gangs = gangs
        self._nodes_to_come = ray_start.to_come(controller.sweep)
        self._counted = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
    ) -> None:
        if LOST in result:
            self._controller.worker_lost(trial.config["trial"])
        elif isinstance(outcome := result.get(RESULT), Outcome):
            self._controller.ended(trial.config["trial"], outcome)

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        if self._gangs is None:  # else it begins when it has got one
            self._controller.began(trial.config["trial"])

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        ray_start.check_alive()
        self._count_nodes()
        silent = self._controller.give_up_silent()
        for trial in trials if silent else ():
            if trial.config["trial"] not in silent:
                continue
            if self._gangs is not None:
                self._gangs.give_up(trial.config["trial"])
            elif trial.temporary_state.ray_actor is not None:
                ray.kill(trial.temporary_state.ray_actor)

    def _count_nodes(self) -> None:
        """Run as many trials at once as the nodes hold that there are now."""
        if time.monotonic() - self._counted < _SECONDS_BETWEEN_COUNTS:
            return
        self._counted = time.monotonic()
        nodes = ray_start.largest_extent(ray_start.alive_nodes(), self._nodes_to_come)
        self._controller.resized(fit_to(self._controller.resources, nodes))
        if self._gangs is not None:
            self._gangs.grow(min(self._controller.resources.concurrency, self._controller.n_ahead))

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._controller.retried(trial.config["trial"], "its node was taken away")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        # Training errors are results. Ray does not try again where a warm process dies between two
        # trials, so the controller does it, wherever one dies.
        if self._gangs is not None:
            self._gangs.give_up(trial.config["trial"])
        self._controller.worker_lost(trial.config["trial"])


def _resources_of(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What Ray sets aside for a trial; an actor is reused for trials that get the same."""
    gpus = {"GPU": config["gpus"]} if config["gpus"] else {}
    return tune.PlacementGroupFactory([{"CPU": config["cpus"], **gpus}])


def _relay_resources() -> tune.PlacementGroupFactory:
    """Next to nothing, and beside the driver: the workers of a gang have what the trial needs."""
    here = ray.util.get_node_ip_address()
    return tune.PlacementGroupFactory([{f"node:{here}": 0.001}])


def run(controller: Controller) -> None:
    """Run the controller's trials until it has none left."""
    # Read when the run begins. By default Ray starts the second actor only after the first one.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(1, controller.resources.concurrency))
    if controller.resources.n_workers == 1:
        _tune(controller, tune.with_resources(TrialActor, _resources_of), None)
        return
    # Imports torch, of which the driver needs nothing else.
    from tuning.engines.gang_pool import GangPool

    gangs = GangPool(controller.resources, most=controller.n_ahead)
    try:
        relay = tune.with_parameters(GangRelay, exchange=gangs.exchange_name)
        _tune(controller, tune.with_resources(relay, _relay_resources()), gangs)
    finally:
        gangs.close()


class _TrialClasses(_ActorClassCache):
    """Trials' actors have no runtime environment of their own, unless they need one.

    Tune gives each a variable that nothing here reads. For that alone Ray would start a new process
    instead of taking one that it has started ahead, with all that it has imported.
    """

    def get(self, trainable_cls: Any) -> Any:
        if trainable_cls not in self._cache:
            keys = [name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]
            variables = {name: os.environ[name] for name in keys if name in os.environ}
            runtime_env = {"env_vars": variables} if variables else None
            self._cache[trainable_cls] = ray.remote(runtime_env=runtime_env)(trainable_cls)
        return self._cache[trainable_cls]


def _tune(controller: Controller, trainable: Any, gangs: GangPool | None) -> None:
    tune_controller._ActorClassCache = _TrialClasses  # there is no option for it
    # If this process is killed, it lies among Ray's own leftovers.
    with tempfile.TemporaryDirectory(dir=ray_start.session_folder()) as folder:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=-1,  # the searcher says when it is finished
                search_alg=_Searcher(controller),
                scheduler=_Scheduler(controller),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=controller.sweep.name,
                storage_path=folder,  # Ray's own books; ours are in the sweep's folder
                callbacks=[_Callback(controller, gangs)],
                # Trials save for themselves, and only what may be needed.
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except Exception:
            ray_start.check_alive()  # if it has ended, that is the cause
            raise
