"""How several workers train one model: all that differs between the strategies, in one place.

Workers split each batch, and average their gradients over the whole of it. With "ddp" each holds
the whole model (``DistributedDataParallel``); with "fsdp" its share of the weights, gradients and
optimiser state (FSDP2, arXiv:2304.11277), gathered block by block where they are needed. A
checkpoint is the same whatever the strategy and the number of workers.

Batch norm takes the statistics of the whole batch on GPUs (``SyncBatchNorm``); torch has that for
CUDA only, so on the CPU each worker takes those of its own share.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.blocks import Block
from trainables.task import Strategy, TrainingRun

_T = TypeVar("_T")


class Parallelism:
    """One worker that trains alone. All but the flag are called in every worker."""

    # Running the model takes part in a collective operation, so all workers run it equally often.
    runs_in_step = False

    def place(self, model: nn.Module, blocks: Sequence[Block], run: TrainingRun) -> nn.Module:
        """The model, which is the same in every worker, on the device, to be optimised."""
        return model.to(run.device)

    def replicate(self, model: nn.Module, device: torch.device) -> nn.Module:
        """What to run in training, as long as the same parameters are trained."""
        return model

    def accumulate(self, replica: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Around a micro-batch; gradients need be averaged after a step's last one only."""
        return contextlib.nullcontext()

    def evaluation(self) -> AbstractContextManager[Any]:
        """Without gradients."""
        return torch.inference_mode()

    def clip_gradients(self, model: nn.Module, max_norm: float) -> None:
        """Let the norm of all gradients together be at most ``max_norm``."""
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)

    def whole_weights(self, model: nn.Module) -> nn.Module | dict[str, Tensor]:
        """The model, or its weights by name; the first worker's are whole and on the CPU."""
        return model

    def whole_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimiser's state; the first worker's is what one worker alone would have."""
        return optimizer.state_dict()

    def load_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take what ``whole_state`` gave."""
        optimizer.load_state_dict(state)


class _Replicated(Parallelism):
    runs_in_step = True  # in SyncBatchNorm

    def place(self, model: nn.Module, blocks: Sequence[Block], run: TrainingRun) -> nn.Module:
        return _synchronise_batch_norm(model.to(run.device), run)

    def replicate(self, model: nn.Module, device: torch.device) -> nn.Module:
        device_ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids)

    def accumulate(self, replica: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        if is_last:
            return contextlib.nullcontext()
        return cast(AbstractContextManager[Any], replica.no_sync())  # type: ignore[operator]


class _Sharded(Parallelism):
    # Gradients are averaged after every micro-batch: to keep the whole of them until the last would
    # take the memory that sharding is to save.
    runs_in_step = True

    def place(self, model: nn.Module, blocks: Sequence[Block], run: TrainingRun) -> nn.Module:
        from torch.distributed.fsdp import fully_shard

        # Not the whole model at once: `fully_shard` moves it to the device block by block.
        model = _synchronise_batch_norm(model, run)
        # Resharded after each forward, the parameters that a model names are always the shares:
        # those that the optimiser has, and that are frozen and thawed.
        mesh = _mesh(torch.device(run.device).type)
        shard = functools.partial(fully_shard, mesh=mesh, reshard_after_forward=True)
        for block in blocks:
            for module in block.modules(model):
                if _can_be_sharded(module):
                    shard(module)
        shard(model)
        return model

    def evaluation(self) -> AbstractContextManager[Any]:
        return torch.no_grad()  # weights gathered in inference mode could not be trained with

    def clip_gradients(self, model: nn.Module, max_norm: float) -> None:
        parameters = [each for each in model.parameters() if each.grad is not None]
        norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        nn.utils.clip_grads_with_norm_(parameters, max_norm, _whole(norm))

    def whole_weights(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: _gather(each) for name, each in model.state_dict().items()}

    def whole_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return _map_state(optimizer.state_dict(), lambda number, each: _gather(each))

    def load_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        shares = _map_state(state, lambda number, each: _share_like(parameters[number], each))
        optimizer.load_state_dict(shares)


STRATEGIES: dict[Strategy, Parallelism] = {"ddp": _Replicated(), "fsdp": _Sharded()}


def parallelism(run: TrainingRun) -> Parallelism:
    """How the workers of ``run`` train together."""
    return STRATEGIES[run.strategy] if run.world_size > 1 else Parallelism()


def fail_together(run: TrainingRun, attempt: Callable[[], _T]) -> _T:
    """What ``attempt`` returns; where it fails in one worker, its error is raised in all of them.

    So none is left waiting for another that has given up.
    """
    if run.world_size == 1:
        return attempt()
    result, error = None, None
    try:
        result = attempt()
    except Exception as raised:
        error = raised
    errors: list[Exception | None] = [None] * run.world_size
    dist.all_gather_object(errors, error)
    for each in (error, *errors):
        if each is not None:
            raise each
    return cast(_T, result)


def sum_over_workers(run: TrainingRun, *tensors: Tensor) -> None:
    """Replace each tensor by its sum over all workers."""
    if run.world_size > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def gather_over_workers(run: TrainingRun, value: Any) -> list[Any]:
    """The ``value`` of each worker, in the order of their ranks; it must pickle."""
    values: list[Any] = [None] * run.world_size
    dist.all_gather_object(values, value)
    return values


def share_buffers(model: nn.Module, run: TrainingRun) -> None:
    """Give every worker the first one's batch-norm statistics; each gathered its own."""
    if run.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def _synchronise_batch_norm(model: nn.Module, run: TrainingRun) -> nn.Module:
    if torch.device(run.device).type != "cuda":
        return model
    convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
    return convert(model)


@functools.cache
def _mesh(device_type: str) -> Any:
    """All workers in a row, made once in a process."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device_type, (dist.get_world_size(),))


def _can_be_sharded(module: nn.Module) -> bool:
    """Whether it has parameters, and runs as one: a list of modules does not."""
    runs = type(module).forward is not nn.Module.forward
    return runs and next(module.parameters(), None) is not None


def _whole(tensor: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gather(tensor: Tensor) -> Tensor:
    """The whole tensor on the CPU of the first worker; the others need none."""
    whole = _whole(tensor)
    return whole.cpu() if dist.get_rank() == 0 else whole.new_empty(0)


def _share_like(parameter: Tensor, whole: Tensor) -> Tensor:
    """This worker's share of ``whole``, divided as ``parameter`` is; a scalar is every worker's."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or whole.shape != parameter.shape:
        return whole
    mesh = parameter.device_mesh
    # Every worker has read the whole, so none has to be sent its share.
    whole = whole.to(mesh.device_type)
    return distribute_tensor(whole, mesh, parameter.placements, src_data_rank=None)


def _map_state(state: Mapping[str, Any], change: Callable[[int, Tensor], Tensor]) -> dict[str, Any]:
    """An optimiser's state with its tensors changed, in the same order in every worker."""
    changed = {
        number: {
            name: change(number, each) if isinstance(each, Tensor) else each
            for name, each in sorted(values.items())
        }
        for number, values in sorted(state["state"].items())
    }
    return {**state, "state": changed}
