"""The frozen backbone of one table: a ResNet-20 as it was trained on CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

_STAGES = ((1, 1), (2, 2), (3, 2))  # (number, stride of its first block); three blocks each


@torch.inference_mode()
def resnet20_features(images: np.ndarray, weights: Path) -> np.ndarray:
    """[n, 64] pooled features of grey images [n, 28, 28], padded to the 32 × 32 it knows.

    The weights are those of akamaster/pytorch_resnet_cifar10, whose shortcuts have none (option A
    of arXiv:1512.03385).
    """
    state = torch.load(weights, weights_only=True, map_location="cpu")["state_dict"]
    state = {name.removeprefix("module."): value for name, value in state.items()}
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    features = []
    for start in range(0, len(images), 250):
        x = torch.from_numpy(images[start : start + 250].copy()).float().div(255).unsqueeze(1)
        features.append(_forward((F.pad(x, (2, 2, 2, 2)) - mean) / std, state))
    return torch.cat(features).numpy()


def _forward(x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    x = F.relu(_normalised(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1"))
    for stage, first_stride in _STAGES:
        for block in range(3):
            stride = first_stride if block == 0 else 1
            name = f"layer{stage}.{block}"
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.relu(_normalised(y, state, f"{name}.bn1"))
            y = F.conv2d(y, state[f"{name}.conv2.weight"], padding=1)
            y = _normalised(y, state, f"{name}.bn2")
            n_new = (y.shape[1] - x.shape[1]) // 2
            shortcut = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, n_new, n_new))
            x = F.relu(y + shortcut)
    return x.mean((2, 3))


def _normalised(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])
