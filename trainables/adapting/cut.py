"""A model cut in two before one of its blocks, by the model's own forward pass.

The prefix is that forward pass, ended where the first module of block k is called. The suffix is
the same forward pass again, in which the frozen modules compute nothing and that first module gets
the activations that the prefix found. Whatever a model computes beside its blocks (masks, position
biases) is then computed as its author wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainables.blocks import Block

Inputs = dict[str, Tensor]
Forward = Callable[[nn.Module, Inputs], Any]  # as a task's


class _Reached(Exception):
    """Ends a forward pass where the activations are found."""


@dataclass(frozen=True)
class Parts:
    """The two parts of a model that is cut before ``entry``, a module of its first late block."""

    model: nn.Module
    forward: Forward
    entry: nn.Module
    # what stands in for a frozen module's forward pass
    stand_ins: Mapping[nn.Module, Callable[..., Any]]

    def prefix(self, inputs: Inputs) -> Tensor:
        """The activations that reach the entry."""
        found: list[Tensor] = []

        def stop(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            found.append(_first_tensor(args, kwargs))
            raise _Reached

        with _hooked([self.entry], stop):
            _run(self.forward, self.model, inputs)
        return found[0]

    def suffix(self, activations: Tensor, inputs: Inputs) -> Any:
        """What the model gives for these activations; ``inputs`` feed what is not skipped."""
        waiting = [activations]

        def exchange(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            # Only its first call: layers may run several times over the same weights.
            return _with_first_tensor(waiting.pop(), args, kwargs) if waiting else None

        with _hooked([self.entry], exchange), _replaced(self.stand_ins):
            return self.forward(self.model, inputs)


def cut(
    model: nn.Module,
    skipped: Sequence[Block],
    late: Sequence[Block],
    forward: Forward,
    inputs: Inputs,
) -> Parts | None:
    """Cut ``model``, which is put in eval mode, before the first of the ``late`` blocks.

    Args:
        skipped: frozen blocks whose modules the suffix leaves out. A module that gives activations
            of its input's shape is passed by; another gives what has the shape of its output for
            ``inputs``, without meaning.
        inputs: to try it with. Unless all skipped modules are passed by, those of the suffix must
            have the same shapes.

    Returns:
        None where no late module gets a tensor. See with ``is_whole`` whether the parts fit.
    """
    stand_ins: dict[nn.Module, Callable[..., Any]] = {}
    entries: list[nn.Module] = []

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        entries.extend([module] if _first_tensor(args, kwargs) is not None else [])
        raise _Reached

    def watch(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        stand_ins[module] = _stand_in(_first_tensor(args, kwargs), output)

    model.eval()
    frozen = (module for block in skipped for module in block.modules(model))
    later = [module for block in late for module in block.modules(model)]
    watching = [m.register_forward_hook(watch, with_kwargs=True) for m in frozen]
    with torch.no_grad(), _removed(watching), _hooked(later, enter):
        _run(forward, model, inputs)
    return Parts(model, forward, entries[0], stand_ins) if entries else None


@torch.no_grad()
def is_whole(
    model: nn.Module,
    forward: Forward,
    inputs: Inputs,
    by_parts: Callable[[], Any],
    counts: Tensor | None = None,
) -> bool:
    """Whether ``by_parts``, which runs both parts on ``inputs``, gives what the model gives.

    Args:
        counts: bool [n, positions]; what the model gives for a position that does not count may
            differ. None: all counts.
    """
    model.eval()
    try:
        found = list(_tensors(by_parts()))
    except Exception:  # a forward pass that is used in a way its author did not foresee
        return False
    whole = list(_tensors(forward(model, inputs)))

    def agree(a: Tensor, b: Tensor) -> bool:
        if a.shape == b.shape and counts is not None and a.shape[:2] == counts.shape:
            a, b = a[counts], b[counts]
        return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-5)

    return len(found) == len(whole) > 0 and all(map(agree, found, whole))


def _run(forward: Forward, model: nn.Module, inputs: Inputs) -> None:
    with suppress(_Reached):
        forward(model, inputs)


def _first_tensor(args: tuple, kwargs: Mapping[str, Any]) -> Any:
    return next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)


def _with_first_tensor(tensor: Tensor, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
    """The arguments of a call, with ``tensor`` in the place of the first tensor."""
    for index, value in enumerate(args):
        if isinstance(value, Tensor):
            return (*args[:index], tensor, *args[index + 1 :]), kwargs
    name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
    return args, {**kwargs, name: tensor}


_SAME = object()  # stands for the input of a module in what it returns


def _stand_in(given: Tensor | None, output: Any) -> Callable[..., Any]:
    """A forward pass that costs nothing and returns what looks like ``output``."""

    def meaningless(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if given is not None and (value.shape, value.dtype) == (given.shape, given.dtype):
            return _SAME
        # Not a number: if any of it reached the result, ``is_whole`` would see it.
        return torch.full_like(value, math.nan if value.is_floating_point() else 0)

    returned = _each(meaningless, output)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return _each(lambda v: _first_tensor(args, kwargs) if v is _SAME else v, returned)

    return forward


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with its items changed, where it is a tuple or a list of them."""
    if type(value) in (tuple, list):
        return type(value)(_each(change, item) for item in value)
    return change(value)


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _tensors(value)
    elif isinstance(outputs, tuple | list):
        for value in outputs:
            yield from _tensors(value)


def _hooked(modules: Sequence[nn.Module], hook: Callable[..., Any]) -> AbstractContextManager[None]:
    """Call ``hook(module, args, kwargs)`` before each of ``modules`` runs."""
    return _removed(
        [m.register_forward_pre_hook(hook, with_kwargs=True, prepend=True) for m in modules]
    )


@contextmanager
def _removed(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove hooks when the block ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules run other forward passes than their own."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, own in before.items():
            if own is None:
                del module.forward  # the class's own shows again
            else:
                module.forward = own
