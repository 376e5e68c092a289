"""A training's state in a folder, checked when read and free of pickled code.

    model.safetensors     weights; beneath adapters, those that trained alone
    training_state.pt     optimiser, schedule, gradient scaler; read with weights_only=True
    assets/               the data's own files, such as a tokenizer
    checkpoint.json       task, configuration, data, epoch, metrics, and a digest of each file above

Random states need no place: the loop derives all of an epoch's random numbers from (seed, epoch,
rank).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainables.errors import DamagedCheckpoint
from trainables.prepared import DataInfo

MODEL, STATE, ASSETS, DESCRIPTION = (
    "model.safetensors",
    "training_state.pt",
    "assets",
    "checkpoint.json",
)


@dataclass(frozen=True)
class CheckpointDescription:
    """What ``checkpoint.json`` says."""

    task: str
    config: Mapping[str, Any]
    info: DataInfo
    epoch: int  # epochs that are done
    metrics: Mapping[str, float]
    history: Mapping[str, Any]  # what the loop must remember beside tensors
    # Digest of the weights that are left out, beneath adapters; None where the model is whole.
    base: str | None = None


def save_checkpoint(
    folder: Path,
    description: CheckpointDescription,
    model: Any,
    training_state: Mapping[str, Any],
    assets: Path,
) -> None:
    """Write a checkpoint into the empty ``folder``; ``files.whole_folder`` makes it appear whole.

    Args:
        model: the module, or its weights by name.

    Raises:
        OSError: the disk is full or the folder can not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _write_tensors(folder, model, training_state)
    except RuntimeError as error:  # how torch.save reports a full disk
        raise OSError(f"checkpoint {str(folder)!r} can not be written: {error}") from error
    shutil.copytree(assets, folder / ASSETS)
    files = {
        str(path.relative_to(folder)): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    content = {**asdict(description), "files": files}
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=1))


def _write_tensors(folder: Path, model: Any, training_state: Mapping[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file, save_model

    if isinstance(model, Mapping):
        save_file(dict(model), str(folder / MODEL))
    else:
        save_model(model, str(folder / MODEL))
    torch.save(dict(training_state), folder / STATE)


def read_description(folder: Path, *, verify: bool = True) -> CheckpointDescription:
    """Read ``checkpoint.json``; with ``verify`` also compare every file with its digest.

    Raises:
        DamagedCheckpoint: a file is missing, cut short or altered; the message names it.
    """
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text())
        files = content.pop("files")
        info = DataInfo.from_json(content["info"])
        description = CheckpointDescription(**{**content, "info": info})
    except FileNotFoundError:
        raise DamagedCheckpoint(
            f"{str(folder)!r} is not a checkpoint: it has no {DESCRIPTION}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"checkpoint file {str(path)!r} is damaged: {error}") from error
    if verify:
        for name, digest in files.items():
            _verify(folder / name, digest)
    return description


def load_model_weights(folder: Path, model: Any, names: Collection[str] | None = None) -> None:
    """Fill ``model`` with the checkpoint's weights.

    Args:
        names: what the checkpoint must hold, no more and no less; None: the whole model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, load_model

    try:
        if names is None:
            load_model(model, str(folder / MODEL), strict=True)
            return
        weights = load_file(str(folder / MODEL))
        if weights.keys() != set(names):
            raise RuntimeError(f"of other parameters: {sorted(weights.keys() ^ set(names))}")
        model.load_state_dict(weights, strict=False)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise DamagedCheckpoint(f"weights {str(folder / MODEL)!r} do not load: {error}") from error


def load_training_state(folder: Path, device: str) -> dict[str, Any]:
    """The optimiser's, schedule's and scaler's states."""
    import torch

    state: dict[str, Any] = torch.load(folder / STATE, map_location=device, weights_only=True)
    return state


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path, digest: str) -> None:
    try:
        found = _digest(path)
    except OSError as error:
        raise DamagedCheckpoint(
            f"checkpoint file {str(path)!r} can not be read: {error}"
        ) from error
    if found != digest:
        raise DamagedCheckpoint(
            f"checkpoint file {str(path)!r} is damaged: it is not what was written "
            f"({path.stat().st_size} bytes now)"
        )
