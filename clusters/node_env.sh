# What every command on a node of the cluster needs. Sourced, by set-up, by each `ray start` and by
# the user's own shells there; never run.

export PATH="${THAW_VENV:-$HOME/.thaw/venv}/bin:$HOME/.local/bin:$PATH"

# Ray then refuses whoever lacks ~/.ray/auth_token, and does not start without that file itself.
export RAY_AUTH_MODE=token

# Ray's launcher sets it to 1 in its shells, and every trial would inherit that.
unset OMP_NUM_THREADS

# The head's address, where MLflow is, and a name and password for it: written on the head by
# mlflow_server.py, and synced to the workers.
if [ -r "$HOME/.thaw/cluster.env" ]; then
    set -a
    . "$HOME/.thaw/cluster.env"
    set +a
fi

# Ray keeps many connections open.
ulimit -Sn 65536 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"

# Idle workers import what trials will need: seconds off each first trial. Ray keeps one idle worker
# per core, and each one costs 7 s of CPU and up to 0.8 GB, so only where there is plenty of both.
# (8 cores and 2 GiB each: assumed; on 2 cores it made the first trial slower, which was measured.)
if [ -r /proc/meminfo ] && [ "$(nproc)" -ge 8 ] &&
    [ "$(awk '/^MemTotal/ {print int($2 / 2097152)}' /proc/meminfo)" -ge "$(nproc)" ]; then
    export RAY_preload_python_modules=torch,torchvision,ray.tune,tuning.engines.ray_actors
fi
