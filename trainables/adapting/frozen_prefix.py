"""The frozen blocks of a training: computed once for each sample where that pays.

While the first k blocks are frozen, run in eval mode and see the same input each epoch, what they
give never changes. It is then read from the machine's ``PrefixCache``, or computed here, in a way
that makes no difference to the result. A matrix product of few rows is rounded in another order
than one of many, so on the CPU samples go through the frozen blocks in chunks of one fixed size,
whatever the batch: what a sample gets then depends on no other (a test holds it). On a GPU, where
whole batches are much faster, results differ in rounding.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.adapting.freezing import weights_digest
from trainables.adapting.prefix_cache import Entry, NotCached, PrefixCache
from trainables.blocks import Block
from trainables.config import TrainingConfig
from trainables.prepared import PreparedData, gather
from trainables.task import Cut, Task, TrainingRun
from trainables.torch_settings import autocast, mix_seed

_FORMAT = 1  # raise it when what is computed for a key changes
_CHUNK = {"cpu": 16, "cuda": 256}  # samples; on the CPU, larger ones are no faster
_AS_IT_IS = -1  # the view of a sample that is not augmented
# Reading rows back costs about three plain copies of them, and writing them twice that (measured on
# files in the page cache).
_READING, _WRITING = 3.0, 6.0
# Epochs of other trials that will use an entry, beside the remaining ones of its maker: in a sweep
# one at least is likely.
_EPOCHS_ELSEWHERE = 1


@dataclass(frozen=True)
class _Cost:
    """What the activations of one sample of group 1 (or 0) cost; others cost as many times it."""

    seconds: float
    n_bytes: float
    seconds_to_copy: float


class FrozenPrefix:
    """Gives the outputs of any samples while the blocks of one phase are frozen."""

    def __init__(
        self,
        cut: Cut,
        n_views: int,
        config: TrainingConfig,
        run: TrainingRun,
        data: PreparedData,
    ) -> None:
        self._cut = cut
        self._n_threads = run.n_threads
        self._n_views = n_views
        self._config = config
        self._data = data
        self._device = torch.device(run.device)
        self._chunk = _CHUNK.get(self._device.type, _CHUNK["cuda"])
        self._arrays_of = {name: data.splits[name].arrays for name in ("train", "val")}
        self._groups = {name: cut.groups(arrays) for name, arrays in self._arrays_of.items()}
        self._rows = {name: _rows_within(groups) for name, groups in self._groups.items()}
        train_views = range(n_views) if n_views > 1 else (_AS_IT_IS,)
        self._arrays = [("val", _AS_IT_IS), *(("train", view) for view in train_views)]
        self._keys: dict[tuple[str, int], str] = {}
        self._entries: dict[tuple[str, int], Entry] = {}
        self._seconds_reading = self._seconds_filling = self._seconds_saved = 0.0

    @property
    def seconds_saved(self) -> float:
        """What this training did not spend, less what reading and filling the cache took it."""
        return self._seconds_saved - self._seconds_reading - self._seconds_filling

    def outputs(self, split: str, indices: np.ndarray, epoch: int) -> Any:
        """What the model gives for samples of a split; gradients reach the blocks that train."""
        activations = self.activations(split, indices, epoch)
        raw = None
        if self._cut.suffix_needs_inputs:
            raw = gather(self._arrays_of[split], indices, self._device)
        return self._cut.suffix(activations, raw)

    def activations(self, split: str, indices: np.ndarray, epoch: int) -> Tensor:
        """What the frozen blocks give [n, ...], zero beyond the second axis of a shorter sample."""
        views = self._views(split, indices, epoch)
        groups = self._groups[split][indices]
        kinds = np.unique(np.stack([views, groups], axis=1), axis=0).tolist()
        pieces = []
        for view, group in kinds:
            chosen = np.flatnonzero((views == view) & (groups == group))
            pieces.append((chosen, self._piece(split, view, group, indices[chosen])))
        return _together(pieces, len(indices))

    def _views(self, split: str, indices: np.ndarray, epoch: int) -> np.ndarray:
        if split != "train" or self._n_views == 1:
            return np.full(len(indices), _AS_IT_IS)
        # Each sample goes through all of its views, from one of its own.
        first = np.array([mix_seed(self._config.seed, 2, int(i)) % self._n_views for i in indices])
        return (first + epoch) % self._n_views

    def _piece(self, split: str, view: int, group: int, indices: np.ndarray) -> Tensor:
        entry = self._entries.get((split, view))
        if entry is None:
            return torch.cat(list(self._compute(split, view, group, indices)))
        started = time.perf_counter()
        rows = entry.groups[group][torch.from_numpy(self._rows[split][indices])]
        rows = rows.to(self._device, non_blocking=True)
        self._seconds_reading += time.perf_counter() - started
        self._seconds_saved += len(indices) * entry.seconds / len(self._groups[split])
        return rows

    def _compute(self, split: str, view: int, group: int, indices: np.ndarray) -> Iterator[Tensor]:
        """The activations of samples of one group, chunk by chunk."""
        for start in range(0, len(indices), self._chunk):
            part = indices[start : start + self._chunk]
            full = part
            if self._device.type == "cpu":  # the last chunk has the size of the others, too
                full = np.concatenate([part, np.repeat(part[:1], self._chunk - len(part))])
            generators = None
            if view != _AS_IT_IS:
                seeds = (mix_seed(self._config.seed, 3, view, int(i)) for i in full)
                generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            raw = gather(self._arrays_of[split], full, self._device)
            with torch.no_grad(), autocast(self._config.precision, self._device):
                yield self._cut.prefix(raw, group, generators)[: len(part)]

    def use_cache(self, cache: PrefixCache, weights_digest: str, n_epochs: int) -> str | None:
        """Read from ``cache`` from now on, filling it where that pays; else the reason why not.

        Args:
            weights_digest: of all that the frozen blocks hold.
            n_epochs: how many epochs these blocks stay frozen.
        """
        self._keys = {array: self._key(*array, weights_digest) for array in self._arrays}
        try:
            entries = {array: cache.read(self._keys[array]) for array in self._arrays}
            missing = [array for array, entry in entries.items() if entry is None]
            if missing:
                cost = self._measure()
                self._check_that_it_pays(cache, n_epochs, cost)
                for split, view in missing:
                    entries[split, view] = self._fill(cache, split, view, cost)
        except NotCached as reason:
            return str(reason)
        self._entries = {array: entry for array, entry in entries.items() if entry is not None}
        return None

    def _measure(self) -> _Cost:
        """From two chunks of the commonest group."""
        groups = self._groups["train"]
        numbers, counts = np.unique(groups, return_counts=True)
        group = int(numbers[counts.argmax()])
        few = np.flatnonzero(groups == group)[: self._chunk]
        _, view = self._arrays[-1]
        for _ in range(2):  # the first one also warms up
            started = time.perf_counter()
            activations = next(self._compute("train", view, group, few))
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            seconds = time.perf_counter() - started
        copied = activations.cpu()
        started = time.perf_counter()
        copied.clone()
        scale = len(few) * max(group, 1)
        copying = (time.perf_counter() - started) / scale
        return _Cost(seconds / scale, copied.nbytes / scale, copying)

    def _check_that_it_pays(self, cache: PrefixCache, n_epochs: int, cost: _Cost) -> None:
        per_epoch = sum(map(_units, self._groups.values()))
        in_all = sum(_units(self._groups[split]) for split, _ in self._arrays)
        cache.check_budget(int(in_all * cost.n_bytes))
        computing, copying = cost.seconds, cost.seconds_to_copy
        saved = (n_epochs + _EPOCHS_ELSEWHERE) * per_epoch * (computing - _READING * copying)
        if saved <= in_all * (computing + _WRITING * copying):
            raise NotCached(f"filling it would take longer than it saves in {n_epochs} epochs")

    def _fill(self, cache: PrefixCache, split: str, view: int, cost: _Cost) -> Entry:
        groups = self._groups[split]
        numbers, counts = np.unique(groups, return_counts=True)
        sizes = dict(zip(numbers.tolist(), counts.tolist(), strict=True))

        def chunks() -> Iterator[tuple[int, Tensor]]:
            for group in sizes:
                for chunk in self._compute(split, view, group, np.flatnonzero(groups == group)):
                    yield group, chunk

        started = time.perf_counter()
        n_bytes = int(_units(groups) * cost.n_bytes)
        entry = cache.make(self._keys[split, view], sizes, n_bytes, chunks())
        self._seconds_filling += time.perf_counter() - started
        return entry

    def _key(self, split: str, view: int, weights_digest: str) -> str:
        config, info = self._config, self._data.info
        identity = {
            "format": _FORMAT,
            "data": [info.fingerprint, dict(info.details), split],
            "prefix": [self._cut.identity, weights_digest],
            "precision": config.precision,
            # Rounding differs between devices, numbers of threads, and builds of torch.
            "device": [_device_name(self._device), self._n_threads, torch.__version__],
        }
        if view != _AS_IT_IS:
            augmentation = {
                name: value
                for name, value in config.model_dump().items()
                if name.startswith("augmentation")
            }
            identity["view"] = [view, config.seed, augmentation]
        text = json.dumps(identity, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def freeze_prefix(
    task: Task,
    model: nn.Module,
    blocks: Sequence[Block],
    k: int,
    config: TrainingConfig,
    run: TrainingRun,
    data: PreparedData,
    n_epochs: int,
) -> tuple[FrozenPrefix | None, str | None]:
    """The first ``k`` blocks as they stay for ``n_epochs``, read from the machine's cache or not.

    Returns:
        The prefix, None where the whole model has to run; and why the cache is not used, None if
        it is.
    """
    if k == 0:
        return None, "nothing is frozen"
    if run.world_size > 1:
        return None, "several workers train together"
    n_views = 1 if task.n_views is None else task.n_views(config)
    if n_views == 0:
        return None, "augmentation gives the frozen blocks new inputs each epoch (cached_views = 0)"
    cut = None if task.cut is None else task.cut(model, k, config, data.info)
    if cut is None:
        return None, f"{config.model} can not be cut before its block {blocks[k].name}"
    prefix = FrozenPrefix(cut, n_views, config, run, data)
    if run.prefix_cache_bytes == 0:
        return prefix, "it is switched off"
    cache = PrefixCache(activations_folder(run.cache_folder), run.prefix_cache_bytes)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    frozen = (each for each in tensors if any(block.holds(each[0]) for block in blocks[:k]))
    return prefix, prefix.use_cache(cache, weights_digest(frozen), n_epochs)


def activations_folder(cache_folder: Path) -> Path:
    """Where the activations of frozen blocks are kept."""
    return cache_folder / "activations"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def _units(groups: np.ndarray) -> int:
    """What the samples cost together, in units of ``_Cost``."""
    return int(np.maximum(groups, 1).sum())


def _rows_within(groups: np.ndarray) -> np.ndarray:
    """The position of each sample among those of its group."""
    rows = np.empty(len(groups), dtype=np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        rows[members] = np.arange(len(members))
    return rows


def _together(pieces: Sequence[tuple[np.ndarray, Tensor]], n: int) -> Tensor:
    """Pieces of a batch in their places; zeros follow the shorter ones along the second axis."""
    if len(pieces) == 1:
        return pieces[0][1]
    first = pieces[0][1]
    shape = list(first.shape)
    if first.dim() > 1:
        shape[1] = max(piece.shape[1] for _, piece in pieces)
    whole = first.new_zeros([n, *shape[1:]])
    for chosen, piece in pieces:
        rows = torch.from_numpy(chosen).to(piece.device)
        if first.dim() > 1:
            whole[rows, : piece.shape[1]] = piece
        else:
            whole[rows] = piece
    return whole
