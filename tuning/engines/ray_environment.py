"""What Ray reads from the environment when it is imported: set before that."""

from __future__ import annotations

import os


def prepare_ray() -> None:
    """Set what Ray reads from the environment when it is imported; call before that."""
    for name, value in (
        # Workers use this environment, instead of making their own.
        ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"),
        ("TUNE_DISABLE_SIGINT_HANDLER", "1"),  # Ctrl-C reaches us as KeyboardInterrupt
        ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1"),  # files that nothing here reads
        ("TUNE_PRINT_ALL_TRIAL_ERRORS", "0"),  # they are in the record, and shown from there
        ("RAY_AIR_NEW_OUTPUT", "0"),  # the other output can be silenced
        ("RAY_CHDIR_TO_TRIAL_DIR", "0"),  # relative paths mean what they mean to the user
        # Ray's 15 lets trials starve beside anything else that runs, Ray's own processes included.
        ("RAY_worker_niceness", "0"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),  # Ray's coming default; unset, Ray warns of it
        ("RAY_agent_register_timeout_ms", "300000"),  # 30 s is too short on a busy machine
        ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "900"),  # a node in a cloud takes minutes
        ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0"),  # a lost worker's trial is retried anyway
        ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1"),  # to hear of a lost worker sooner
    ):
        os.environ.setdefault(name, value)
