"""Is this machine fit to run sweeps, and to start clusters? Every finding says how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from packaging.requirements import Requirement

from trainables.errors import InputError
from tuning.doctor.auth_token import make_token, token_file
from tuning.doctor.findings import Finding, State
from tuning.doctor.mlflow_probe import examine_mlflow
from tuning.record.resources import this_machine
from tuning.record.sweep import default_cache_folder
from tuning.record.uris import is_uri
from tuning.storage.addresses import resolve_tracking_uri
from tuning.storage.disk import free_bytes, show_bytes
from tuning.storage.remote import check_writable_uri
from tuning.user_code.versions import LIBRARIES, installed_versions

LEAST_FREE, LITTLE_FREE = 10**9, 10 * 10**9  # bytes; assumed: a few checkpoints, a data set


def examine_machine(
    sweeps_folder: str, tracking_uri: str | None, *, mend: bool
) -> Iterator[Finding]:
    """Look at everything here that a sweep needs; each finding comes as soon as it is had.

    Args:
        sweeps_folder: a path or URI. Looking does not make a plain folder.
        tracking_uri: of MLflow.
        mend: make what is missing here.
    """
    yield _versions()
    n_cpus, _ = this_machine()
    memory = show_bytes(psutil.virtual_memory().total)
    yield Finding("processors", "ok", f"{n_cpus:g} cores, {memory} of memory")
    yield gpu_finding()
    yield disk_finding("the cache", default_cache_folder())
    if is_uri(sweeps_folder):
        yield storage_finding(sweeps_folder)
    else:
        yield disk_finding("sweeps", Path(sweeps_folder))
    yield _cache(default_cache_folder())
    yield from _mlflow(tracking_uri)
    yield _token(mend=mend)


def _versions() -> Finding:
    versions = installed_versions()
    shown = ", ".join(f"{name} {versions.get(name, 'missing')}" for name in ("python", *LIBRARIES))
    if wrong := ", ".join(_unmet_requirements()):
        what = f"{shown}; not as Thaw needs it: {wrong}"
        return Finding("versions", "wrong", what, "uv sync, or install what is named")
    return Finding("versions", "ok", shown)


def _unmet_requirements() -> Iterator[str]:
    """Requirements of Thaw that are missing, or in a version that it does not work with."""
    try:
        needed = importlib.metadata.requires("thaw") or []
    except importlib.metadata.PackageNotFoundError:
        yield "thaw itself is not installed"
        return
    for text in needed:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{requirement.name} is missing"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} is {version}, must be {requirement.specifier}"


def gpu_finding(of_ray: float | None = None) -> Finding:
    """Compare the GPUs of Nvidia's driver with torch's, and with those that Ray offers, if any."""
    of_driver = _driver_gpus()
    usable = _torch_gpus() if of_driver else 0
    if usable != of_driver:
        return Finding(
            "GPUs", "wrong", f"the driver has {of_driver}, and torch can use {usable} of them",
            "install torch's CUDA build (`uv sync`), and a driver that is new enough for it",
        )  # fmt: skip
    if of_ray not in (None, of_driver):
        return Finding(
            "GPUs", "wrong", f"the driver has {of_driver}, and Ray offers {of_ray:g}",
            "`ray start` counts them when it starts: --num-gpus, or CUDA_VISIBLE_DEVICES there",
        )  # fmt: skip
    what = f"{usable}, and torch can use them" if of_driver else "none: trials run on the CPU"
    return Finding("GPUs", "ok", what)


def _driver_gpus() -> int:
    """The GPUs that Nvidia's driver has; 0 without one."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _torch_gpus() -> int:
    """The GPUs that torch can use, asked in a process of its own: it would keep one busy here."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    program = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    return int(result.stdout) if result.returncode == 0 else 0


def disk_finding(name: str, folder: Path) -> Finding:
    """Whether the disk of a folder has enough room."""
    free = free_bytes(folder.absolute())
    what = f"{show_bytes(free)} free for {name} ({folder})"
    if free >= LITTLE_FREE:
        return Finding("disk", "ok", what)
    state: State = "wrong" if free < LEAST_FREE else "warning"
    return Finding("disk", state, what, "make room there, or name another folder")


def storage_finding(storage: str) -> Finding:
    """Whether sweeps can be kept where they are meant to be, a path or URI."""
    if (error := _write_error(storage)) is None:
        return Finding("storage", "ok", "the sweeps folder can be written")
    mend = "give this machine the rights, or choose another folder"
    return Finding("storage", "wrong", f"the sweeps folder: {error}", mend)


def _write_error(place: str) -> str | None:
    """What is in the way of writing to a path or URI from here; None if nothing.

    The folder is made, as a sweep would make it.
    """
    try:
        if is_uri(place):
            check_writable_uri(place, "it")
        else:
            folder = Path(place).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        return None
    except (OSError, InputError) as error:
        return str(error)


def _cache(folder: Path) -> Finding:
    if (error := _write_error(str(folder))) is None:
        return Finding("cache", "ok", f"{folder} can be written")
    what = f"{folder} can not be written: {error}"
    return Finding("cache", "wrong", what, "set THAW_CACHE to a folder that can")


def _mlflow(tracking_uri: str | None) -> list[Finding]:
    try:
        uri = resolve_tracking_uri(tracking_uri)
    except InputError as error:
        return [Finding("MLflow", "wrong", str(error), "give another --tracking-uri")]
    if uri.startswith(("http://", "https://")):
        return examine_mlflow(uri)
    return [Finding("MLflow", "ok", f"{uri} can be written")]


def _token(*, mend: bool) -> Finding:
    path = token_file()
    if mend:
        made = make_token()
        path.chmod(0o600)
        return Finding("token", "ok", f"{path} {'was made' if made else 'is there'}, for you alone")
    if not path.exists():
        what = f"{path} is not there; `ray up` needs it"
        return Finding("token", "warning", what, "thaw doctor --mend")
    if path.stat().st_mode & 0o077:
        what = f"{path} can be read by others: it opens your clusters"
        return Finding("token", "wrong", what, f"thaw doctor --mend, or chmod 600 {path}")
    return Finding("token", "ok", f"{path} is there, for you alone")
