"""``thaw predict``: a model from a folder or from MLflow, applied to what a person types."""

from __future__ import annotations

from typing import Any

from tuning.tracking.logged_models import find_checkpoint


def predict(model: str, inputs: list[str], tracking_uri: str | None) -> list[dict[str, Any]]:
    """One row per item that ``inputs`` stand for: ``input``, and what the model's task answers.

    Raises:
        InputError: the model or an input can not be read.
    """
    folder = find_checkpoint(model, tracking_uri)
    from trainables.tasks.predictor import Predictor

    predictor = Predictor(folder)
    found = predictor.column.read(inputs)
    rows = predictor.predict([item for _, item in found])
    return [{"input": name, **_rounded(row)} for (name, _), row in zip(found, rows, strict=True)]


def _rounded(value: Any) -> Any:
    """Six decimals of each number in a row, however deep: the rest is rounding of arithmetic."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value
