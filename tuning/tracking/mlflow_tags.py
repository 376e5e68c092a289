"""The tags by which runs in MLflow are told apart."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

from tuning.record.sweep import Sweep

_LIBRARIES = ("torch", "torchvision", "transformers", "ray", "optuna", "mlflow")
TRIAL_TAG, SWEEP_TAG, STATE_TAG = "thaw.trial", "thaw.sweep", "thaw.state"
ENDED_TAG = "thaw.ended_because"  # of the parent run
CONFIRMS_TAG = "thaw.confirms"  # of a confirmation run: the trial
CONFIRMED_TAG = "thaw.confirmed"  # of a trial: its mean over fresh seeds


def sweep_id(sweep: Sweep) -> str:
    """What tells this sweep from another of the same name in the same MLflow."""
    return f"{sweep.name}@{sweep.began_in or sweep.place}"


def sweep_tags(sweep: Sweep) -> dict[str, str]:
    """Tags of every run of a sweep: which one, from which code, with which libraries."""
    versions = {}
    for library in _LIBRARIES:
        versions[f"version.{library}"] = importlib.metadata.version(library)
    return {SWEEP_TAG: sweep_id(sweep), "git_commit": git_commit(), **versions}


def git_commit() -> str:
    """The commit of the working folder, + where files differ; empty outside a repository."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            cwd=Path.cwd(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
