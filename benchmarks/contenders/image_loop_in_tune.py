"""Plain Ray Tune that keeps its actors, and a PyTorch loop as one writes it by hand.

    python image_loop_in_tune.py '{"configurations": [...], "fixed": {...}, "slots": 2}'

Writes the last epoch's validation accuracy of each configuration to accuracies.json. The data is
decoded once per trial and then held in memory; frozen blocks get no gradient and are in eval mode.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import ray
import torch
import torchvision
from ray import tune
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import functional as to

BLOCKS = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",), ("fc",))


def load_split(folder: Path) -> tuple[Tensor, Tensor]:
    """Images, float [n, 3, size, size] in [0, 1], and class indices [n]."""
    images, targets = zip(*torchvision.datasets.ImageFolder(folder), strict=True)
    return torch.stack([to.to_tensor(image) for image in images]), torch.tensor(targets)


def first_trainable(config: dict[str, Any], epoch: int) -> int:
    """Index of the lowest block that trains in ``epoch``, counted from 0."""
    last = len(BLOCKS) - 1
    if config["freezing"] == "gradual":
        return max(last - epoch // config["thaw_every_epochs"], 0)
    return {"none": 0, "head": last}.get(config["freezing"], config.get("frozen_blocks"))


def freeze(model: nn.Module, n_frozen: int) -> None:
    model.train()
    for index, names in enumerate(BLOCKS):
        for name in names:
            block = model.get_submodule(name)
            block.requires_grad_(index >= n_frozen)
            if index < n_frozen:
                block.eval()


def objective(config: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = Path(config["data"])
    (train_images, train_targets), (images, targets) = (
        load_split(data / name) for name in ("train", "val")
    )
    mean = train_images.mean(dim=(0, 2, 3), keepdim=True)
    std = train_images.std(dim=(0, 2, 3), keepdim=True)
    images = (images - mean) / std
    batches = DataLoader(
        TensorDataset((train_images - mean) / std, train_targets),
        batch_size=config["batch_size"],
        shuffle=True,
    )
    model = torchvision.models.resnet18(num_classes=len(targets.unique()))
    weights = load_file(config["weights"])
    model.load_state_dict({n: w for n, w in weights.items() if "fc" not in n}, strict=False)
    freeze(model, first_trainable(config, config["epochs"] - 1))
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad),
        lr=config["learning_rate"],
        weight_decay=config["weight_decay"],
    )
    n_steps = len(batches) * config["epochs"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / n_steps))
    )
    for epoch in range(config["epochs"]):
        freeze(model, first_trainable(config, epoch))
        for batch, batch_targets in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(batch), batch_targets).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            hits = [
                (model(part).argmax(1) == part_targets).sum()
                for part, part_targets in zip(images.split(128), targets.split(128), strict=True)
            ]
        tune.report({"val_accuracy": float(sum(hits)) / len(targets)})


def main() -> None:
    told = json.loads(sys.argv[1])
    configurations = [{**told["fixed"], **point} for point in told["configurations"]]
    ray.init(num_cpus=told["slots"])

    def numbered(config: dict[str, Any]) -> None:
        objective(configurations[config["number"]])

    results = tune.Tuner(
        numbered,
        param_space={"number": tune.grid_search(list(range(len(configurations))))},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(Path.cwd() / "ray_results"), verbose=0),
    ).fit()
    if results.num_errors:
        raise RuntimeError(f"{results.num_errors} trials failed: {results.errors[0]}")
    accuracies = {r.config["number"]: r.metrics["val_accuracy"] for r in results}
    values = [accuracies[number] for number in sorted(accuracies)]
    Path("accuracies.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main()
