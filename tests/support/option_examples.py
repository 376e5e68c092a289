"""How a user may give each option of a sweep."""

from __future__ import annotations

from helpers import SUPPORT

SAMPLER = str(SUPPORT / "sampler_file.py")
BASE = ("--metric", "value:max")

EXAMPLES: dict[str, list[str]] = {
    "name": ["--name", "my-sweep.1"],
    "settings": ["--set", "seconds=0.5", "--set", "kind=plain"],
    "trials": ["--trials", "7"],
    "time_budget_seconds": ["--time-budget", "1.5h"],
    "gpu_hours": ["--gpu-hours", "0.1"],
    "target": ["--target", "-0.25"],
    "patience": ["--patience", "5"],
    "confirm": ["--confirm", "2"],
    "confirm_seeds": ["--confirm-seeds", "4"],
    "metric": ["--metric", "value:max", "--metric", "x:min"],
    "searcher": ["--searcher", f"{SAMPLER}:population_of_four"],
    "scheduler": ["--scheduler", "asha"],
    "cost_aware": ["--cost-aware"],
    "concurrency": ["--concurrency", "3"],
    "n_workers": ["--workers", "2"],
    "strategy": ["--workers", "2", "--strategy", "fsdp"],
    "cpus_per_trial": ["--cpus-per-trial", "0.30000000000000004"],
    "gpus_per_trial": ["--gpus-per-trial", "auto"],
    "seed": ["--seed", "3"],
    "engine": ["--engine", "inprocess"],
    "keep_checkpoints": ["--keep-checkpoints", "1"],
    "checkpoint_budget_bytes": ["--checkpoint-budget", "20 GB"],
    "max_failures": ["--max-failures", "0"],
    "epoch_timeout_seconds": ["--epoch-timeout", "90s"],
    "experiment": ["--experiment", 'it\'s "mine"; $HOME `x`'],
    "prefix_cache_bytes": ["--prefix-cache", "off"],
    "storage": ["--storage", "postgresql://me@db/study"],
    "warm_start": ["--warm-start", "an-earlier-one"],
    "tracking_uri": ["--tracking-uri", "http://10.0.0.1:5000"],
    "address": ["--address", "10.0.0.1:6379"],
    "sweeps_folder": ["--sweeps-folder", "elsewhere"],
    "space": [],
}
