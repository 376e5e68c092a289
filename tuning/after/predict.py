"""``thaw predict``: a model from a folder or from MLflow, applied to files or texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainables.errors import InputError
from trainables.training.checkpoint import read_description
from tuning.tracking.logged_models import find_checkpoint


def predict(model: str, inputs: list[str], tracking_uri: str | None) -> list[dict[str, Any]]:
    """One row per image file or text: input, class, probability.

    Raises:
        InputError: the model or an input can not be read.
    """
    folder = find_checkpoint(model, tracking_uri)
    task = read_description(folder).task
    names, items = _images(inputs) if task == "image_classification" else _texts(inputs)
    from trainables.tasks.predictor import Predictor

    predictions = Predictor(folder).predict(items)
    return [
        {"input": name, "label": prediction.label, "probability": round(prediction.probability, 6)}
        for name, prediction in zip(names, predictions, strict=True)
    ]


def _images(inputs: list[str]) -> tuple[list[str], list[bytes | str]]:
    for path in inputs:
        if not Path(path).is_file():
            raise InputError(f"image file {path!r}: there is no such file")
    return inputs, list(inputs)


def _texts(inputs: list[str]) -> tuple[list[str], list[bytes | str]]:
    """The inputs themselves; an existing file stands for the texts in its lines."""
    texts: list[str] = []
    for given in inputs:
        try:
            is_file = Path(given).is_file()
        except OSError:  # a text too long for a file name
            is_file = False
        if is_file:
            lines = Path(given).read_text(encoding="utf-8", errors="replace").splitlines()
            texts += [line for line in lines if line.strip()]
        else:
            texts.append(given)
    return texts, list(texts)
