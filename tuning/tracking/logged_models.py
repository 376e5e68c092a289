"""Checkpoints as MLflow models, and MLflow models as checkpoints."""

from __future__ import annotations

import importlib.metadata
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from trainables.errors import InputError
from trainables.tasks.predictor import self_contained
from trainables.tasks.table import task_row
from trainables.training.checkpoint import DESCRIPTION, read_description
from tuning.record.sweep import default_cache_folder
from tuning.record.uris import SCHEMES
from tuning.storage.addresses import resolve_tracking_uri
from tuning.storage.remote import RemoteFolder
from tuning.storage.staging import Staging
from tuning.storage.uri_store import fetch_whole
from tuning.tracking.mlflow_client import quiet_mlflow

# What a served model imports; Ray and Optuna are not among them.
_REQUIREMENTS = (
    "mlflow",
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "filelock",
    "charset-normalizer",
)


def log_model(
    checkpoint: Path, run_id: str, tracking_uri: str, registered_name: str | None = None
) -> Any:
    """Log the checkpoint under an MLflow run as a model with signature and input example.

    One that holds adapters alone is logged with all of its weights, so that it needs nothing else.

    Args:
        registered_name: also register it, as a new version of that model.

    Returns:
        MLflow's ModelInfo.
    """
    mlflow = quiet_mlflow()
    mlflow.set_tracking_uri(tracking_uri)
    import pandas as pd

    column = task_row(read_description(checkpoint).task).load().column
    example = pd.DataFrame([{column.name: column.example()}])
    requirements = [f"{name}=={importlib.metadata.version(name)}" for name in _REQUIREMENTS]
    with tempfile.TemporaryDirectory() as place, mlflow.start_run(run_id=run_id):
        whole = self_contained(checkpoint, Path(place) / "checkpoint")
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"checkpoint": str(whole)},
            code_paths=[str(files("trainables"))],
            pip_requirements=requirements,
            signature=mlflow.models.infer_signature(example, pd.DataFrame([column.answer])),
            input_example=example,
            registered_model_name=registered_name,
        )


def find_checkpoint(model: str, tracking_uri: str | None) -> Path:
    """The checkpoint folder that ``model`` names: a folder, or a URI of a store or of MLflow.

    Raises:
        InputError: there is none.
    """
    if model.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        return _fetch(model)
    if not model.startswith(("models:/", "runs:/")):
        folder = Path(model)
        if not folder.is_dir():
            raise InputError(
                f"model {model!r}: is neither a folder nor a models:/ URI, "
                "such as models:/NAME@champion, nor an s3:// or gs:// one"
            )
        return folder
    uri = resolve_tracking_uri(tracking_uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise InputError(f"model {model!r}: there is no MLflow at {uri}; --tracking-uri names it")
    mlflow = quiet_mlflow()
    mlflow.set_tracking_uri(uri)
    try:
        downloaded = Path(mlflow.artifacts.download_artifacts(artifact_uri=model))
    except Exception as error:
        raise InputError(f"model {model!r}: not found in MLflow at {uri}: {error}") from error
    found = next(downloaded.rglob(DESCRIPTION), None)
    if found is None:
        raise InputError(
            f"model {model!r}: is not a model that Thaw logged; it holds no {DESCRIPTION}"
        )
    return found.parent


def _fetch(uri: str) -> Path:
    """A checkpoint of a sweep whose home is a URI, as ``thaw best`` names it."""
    folder = Staging(default_cache_folder()).place("model")
    try:
        fetch_whole(RemoteFolder(uri), "", folder)
    except OSError as error:
        raise InputError(f"model {uri!r}: {error}") from error
    return folder
