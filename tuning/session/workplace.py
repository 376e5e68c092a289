"""Where runs are done: the table of engines, and what is seen to before one begins."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

from tuning.control.controller import Controller
from tuning.control.runs import Runs
from tuning.control.view import View
from tuning.engines.ray_environment import prepare_ray
from tuning.hosting.node_needs import Needs
from tuning.record.events import Record, RunKind
from tuning.record.resources import Resources
from tuning.record.sweep import Sweep, local_resources
from tuning.storage.code_archive import CODE_FILE, digest_of
from tuning.storage.open_store import StoreAddress, address_of, share
from tuning.tracking.mlflow_client import quiet_mlflow


@dataclass(frozen=True)
class Engine:
    """What does the runs, and what has to be started and stopped for it."""

    connect: Callable[[Sweep], Resources]
    run: Callable[[Controller], None]
    disconnect: Callable[[], None]
    share: Callable[[Sweep], AbstractContextManager[StoreAddress]]
    module: str | None = None  # what `run` needs and takes seconds to import


def _ray() -> Engine:
    prepare_ray()
    from tuning.engines import ray_start

    def run(controller: Controller) -> None:
        from tuning.engines import ray_tune

        ray_tune.run(controller)

    return Engine(
        ray_start.connect, run, ray_start.disconnect, share, module="tuning.engines.ray_tune"
    )


def _inprocess() -> Engine:
    from tuning.engines import inprocess

    def connect(sweep: Sweep) -> Resources:
        return replace(local_resources(sweep), concurrency=1, most_per_gpu=1)

    return Engine(connect, inprocess.run, lambda: None, _share_with_nobody)


def _share_with_nobody(sweep: Sweep) -> AbstractContextManager[StoreAddress]:
    return nullcontext(address_of(sweep))


ENGINES: dict[str, Callable[[], Engine]] = {"ray": _ray, "inprocess": _inprocess}
# Where nothing is left to train. What follows the record may still lack some of it.
NO_ENGINE = Engine(
    connect=lambda sweep: Resources(1.0, 0.0, 1),
    run=lambda controller: None,
    disconnect=lambda: None,
    share=_share_with_nobody,
)


@dataclass(frozen=True)
class Workplace:
    """Where runs are done, once it is known that they can."""

    resources: Resources
    address: StoreAddress  # of the sweep's checkpoints, for workers
    needs: Needs | None  # of workers on machines other than this; None without such

    def controller(self, sweep: Sweep, record: Record, kinds: Mapping[RunKind, Runs]) -> Controller:
        """A controller of runs here; the sweep is saved by now, its training file with it."""
        needs = self.needs
        if needs is not None and sweep.train_file is not None:
            archive = (sweep.folder / CODE_FILE).read_bytes()
            needs = replace(needs, code=digest_of(archive))
        return Controller(sweep, record, self.resources, kinds, address=self.address, needs=needs)


@contextmanager
def workplace(engine: Engine, sweep: Sweep, view: View) -> Iterator[Workplace]:
    """Start or join what the runs of ``sweep`` are done on, and see that they can be.

    Raises:
        InputError: not even one run fits, or a node lacks what runs need.
        RunFailed: the engine does not start.
    """
    threading.Thread(target=_import_ahead, args=(engine, sweep), daemon=True).start()
    try:
        resources = engine.connect(sweep)
        if sweep.home is not None:
            view.say(f"checkpoints go from the workers to {sweep.home}")
        with engine.share(sweep) as address:
            needs = None
            if address.has_other_nodes:
                from tuning.engines.node_checks import check_nodes, needs_of

                needs = needs_of(sweep)
                has_gpus = resources.gpus_per_trial > 0
                check_nodes(sweep, address, needs, gpus=has_gpus, say=view.say)
            yield Workplace(resources, address, needs)
    finally:
        engine.disconnect()


def _import_ahead(engine: Engine, sweep: Sweep) -> None:
    """Import what takes seconds while the engine starts, what is needed first coming first."""
    if engine.module is not None:
        importlib.import_module(engine.module)
    if sweep.n_workers > 1:
        importlib.import_module("tuning.engines.gang_pool")
    quiet_mlflow()
