"""The code of the MLflow model that a sweep logs: MLflow runs this file to serve a checkpoint.

Unlike any other module it does something when it is run, because that is how MLflow's "models from
code" work (https://mlflow.org/docs/latest/ml/model/models-from-code/). Thaw never imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from trainables.tasks.predictor import Predictor


class CheckpointModel(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined, misc]
    """From a table with one column, such as of image files' contents, to a row for each of its."""

    def load_context(self, context: Any) -> None:
        self._predictor = Predictor(Path(context.artifacts["checkpoint"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        return pd.DataFrame(self._predictor.predict(model_input.iloc[:, 0].tolist()))


mlflow.models.set_model(CheckpointModel())  # type: ignore[attr-defined]
