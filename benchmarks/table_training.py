"""Trains the small networks of the learning curves, several seeds of one configuration at once.

Plain PyTorch on one thread: parameters carry a leading axis of seeds, so that one step of all
seeds costs little more than that of one.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from table_data import Data

Configuration = Mapping[str, Any]
# share of the training that is behind, 0 to 1 -> factor of the learning rate
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda share: 1.0,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "linear": lambda share: 1.0 - share,
}
_ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh, "gelu": F.gelu}


@dataclass(frozen=True)
class Network:
    """Parameters of all seeds, and what maps x [n_seeds, n, …] to logits [n_seeds, n, classes]."""

    parameters: list[torch.Tensor]
    forward: Callable[[torch.Tensor, bool], torch.Tensor]  # (x, training)


# (configuration, data, n_seeds, random generator) -> a new network
MakeNetwork = Callable[[Configuration, Data, int, torch.Generator], Network]


def train_curve(
    make: MakeNetwork,
    configuration: Configuration,
    data: Data,
    *,
    n_seeds: int,
    n_epochs: int,
    seed: int,
) -> tuple[np.ndarray, float]:
    """Validation accuracies [n_seeds, n_epochs] and the CPU seconds of an epoch of one seed.

    NaN from the epoch after which a network's outputs are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout has no generator of its own
    network = make(configuration, data, n_seeds, generator)
    optimizer = _optimizer(configuration, network.parameters)
    schedule = SCHEDULES[configuration.get("schedule", "cosine")]
    accuracies = np.full((n_seeds, n_epochs), np.nan)
    started = time.process_time()
    for epoch in range(n_epochs):
        for group in optimizer.param_groups:
            group["lr"] = configuration["learning_rate"] * schedule(epoch / n_epochs)
        for x, y in _batches(data, configuration["batch_size"], n_seeds, generator):
            loss = _loss(network.forward(x, True), y, configuration.get("label_smoothing", 0.0))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracies[:, epoch] = _accuracies(network, data, n_seeds)
    seconds = (time.process_time() - started) / (n_epochs * n_seeds)
    diverged = np.maximum.accumulate(np.isnan(accuracies), axis=1)
    return np.where(diverged, np.nan, accuracies), seconds


def _optimizer(
    configuration: Configuration, parameters: list[torch.Tensor]
) -> torch.optim.Optimizer:
    rate, decay = configuration["learning_rate"], configuration["weight_decay"]
    if configuration.get("optimizer", "sgd") == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    momentum = configuration["momentum"]
    return torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay)


def _batches(
    data: Data, batch_size: int, n_seeds: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each seed's own order of the training rows."""
    n = len(data.x_train)
    order = torch.stack([torch.randperm(n, generator=generator) for _ in range(n_seeds)])
    for start in range(0, n, batch_size):
        rows = order[:, start : start + batch_size]
        yield data.x_train[rows], data.y_train[rows]


def _loss(logits: torch.Tensor, y: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """The sum over seeds of each one's mean: seeds do not share parameters, so none disturbs."""
    mean = F.cross_entropy(logits.flatten(0, 1), y.flatten(), label_smoothing=label_smoothing)
    return mean * len(y)


@torch.no_grad()
def _accuracies(network: Network, data: Data, n_seeds: int) -> torch.Tensor:
    logits = network.forward(data.x_val.expand(n_seeds, *data.x_val.shape), False)
    right = (logits.argmax(2) == data.y_val).double().mean(1)
    return torch.where(logits.isfinite().all(2).all(1), right, torch.nan)


def make_mlp(
    configuration: Configuration, data: Data, n_seeds: int, generator: torch.Generator
) -> Network:
    """``n_layers`` hidden layers of ``n_units``; no hidden layer is a linear classifier."""
    n_layers = configuration.get("n_layers", 0)
    sizes = [data.x_train.shape[1], *[configuration.get("n_units", 0)] * n_layers, data.n_classes]
    weights, biases = _linear_layers(sizes, n_seeds, generator)
    dropout = configuration.get("dropout", 0.0)
    activate = _ACTIVATIONS[configuration.get("activation", "relu")]

    def forward(x: torch.Tensor, training: bool) -> torch.Tensor:
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = F.dropout(activate(torch.baddbmm(bias, x, weight)), dropout, training)
        return torch.baddbmm(biases[-1], x, weights[-1])

    return Network([*weights, *biases], forward)


def make_cnn(
    configuration: Configuration, data: Data, n_seeds: int, generator: torch.Generator
) -> Network:
    """3 × 3 convolutions on 8 × 8 pixels, each with twice the channels and half the size.

    Grouped convolutions are slow on a CPU: one seed at a time.
    """
    assert n_seeds == 1
    n_convolutions, n_channels = configuration["n_convolutions"], configuration["n_channels"]
    channels = [1, *(n_channels * 2**depth for depth in range(n_convolutions))]
    filters = [
        _uniform((n_out, n_in, 3, 3), 9 * n_in, generator)
        for n_in, n_out in itertools.pairwise(channels)
    ]
    side = 8 // 2**n_convolutions
    weights, biases = _linear_layers([channels[-1] * side**2, data.n_classes], 1, generator)
    dropout = configuration["dropout"]

    def forward(x: torch.Tensor, training: bool) -> torch.Tensor:
        x = x[0].view(-1, 1, 8, 8)
        for kernel in filters:
            x = F.max_pool2d(F.relu(F.conv2d(x, kernel, padding=1)), 2)
        x = F.dropout(x.flatten(1), dropout, training)
        return torch.baddbmm(biases[0], x[None], weights[0])

    return Network([*filters, *weights, *biases], forward)


def _linear_layers(
    sizes: list[int], n_seeds: int, generator: torch.Generator
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    pairs = list(itertools.pairwise(sizes))
    weights = [_uniform((n_seeds, n_in, n_out), n_in, generator) for n_in, n_out in pairs]
    biases = [torch.zeros(n_seeds, 1, n_out, requires_grad=True) for _, n_out in pairs]
    return weights, biases


def _uniform(shape: tuple[int, ...], n_in: int, generator: torch.Generator) -> torch.Tensor:
    """Kaiming's bound for a ReLU (arXiv:1502.01852)."""
    bound = math.sqrt(6 / n_in)
    values = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    return values.requires_grad_()
