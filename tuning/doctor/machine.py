"""Is this machine fit to run sweeps, and to start clusters? Every finding says how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from trainables.errors import InputError
from tuning.doctor.auth_token import make_token, readable_by_others, token_file
from tuning.doctor.findings import Finding
from tuning.doctor.mlflow_probe import examine_mlflow
from tuning.record.sweep import default_cache_folder
from tuning.record.uris import is_uri
from tuning.storage.addresses import resolve_tracking_uri
from tuning.storage.disk import free_bytes, show_bytes
from tuning.storage.remote import check_writable_uri
from tuning.user_code.versions import LIBRARIES, installed_versions

LEAST_FREE, LITTLE_FREE = 10**9, 10 * 10**9  # bytes; assumed: a few checkpoints, a data set


@dataclass(frozen=True)
class Examination:
    """What to examine."""

    sweeps_folder: str  # a path or URI
    tracking_uri: str | None
    mend: bool  # make what is missing here


def examine_machine(examination: Examination) -> Iterator[Finding]:
    """Look at everything here that a sweep needs; each finding comes as soon as it is had."""
    for check in CHECKS:
        yield from check(examination)


def _versions(examination: Examination) -> Iterator[Finding]:
    versions = installed_versions()
    shown = ", ".join(f"{name} {versions.get(name, 'missing')}" for name in ("python", *LIBRARIES))
    wrong = list(_unmet_requirements())
    if wrong:
        yield Finding(
            "versions", "wrong", f"{shown}; not as Thaw needs it: {', '.join(wrong)}",
            "uv sync, or install what is named",
        )  # fmt: skip
    else:
        yield Finding("versions", "ok", shown)


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


def _processors(examination: Examination) -> Iterator[Finding]:
    from tuning.record.resources import this_machine

    n_cpus, _ = this_machine()
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = f", {show_bytes(size)} of memory"
    yield Finding("processors", "ok", f"{n_cpus:g} cores{memory}")


def _gpus(examination: Examination) -> Iterator[Finding]:
    yield gpu_finding(driver_gpus(), torch_gpus)


def driver_gpus() -> int:
    """The GPUs that Nvidia's driver has; 0 without one."""
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def torch_gpus() -> int:
    """The GPUs that torch can use, asked in a process of its own: it would keep one busy here."""
    import sys

    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    program = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    return int(result.stdout) if result.returncode == 0 else 0


def gpu_finding(of_driver: int, of_torch: Callable[[], int], node: str | None = None) -> Finding:
    """Compare the driver's GPUs with torch's, which is asked only where there are any."""
    if of_driver == 0:
        return Finding("GPUs", "ok", "none: trials run on the CPU", node=node)
    usable = of_torch()
    if usable == of_driver:
        return Finding("GPUs", "ok", f"{usable}, and torch can use them", node=node)
    return Finding(
        "GPUs", "wrong", f"the driver has {of_driver}, and torch can use {usable} of them",
        "install torch's CUDA build (`uv sync`), and a driver that is new enough for it", node,
    )  # fmt: skip


def _disk(examination: Examination) -> Iterator[Finding]:
    folders = {"the cache": default_cache_folder()}
    if not is_uri(examination.sweeps_folder):
        folders["sweeps"] = Path(examination.sweeps_folder)
    for name, folder in folders.items():
        yield disk_finding(name, str(folder), free_bytes(folder.absolute()))


def _storage(examination: Examination) -> Iterator[Finding]:
    """Only for a URI: looking must not make a plain folder."""
    if is_uri(examination.sweeps_folder):
        yield storage_finding(storage_error(examination.sweeps_folder))


def storage_error(storage: str) -> str | None:
    """What is in the way of writing to a sweeps folder, a path or URI, from here; None if nothing.

    The folder is made, as a sweep would make it.
    """
    try:
        if is_uri(storage):
            check_writable_uri(storage, "it")
        else:
            folder = Path(storage).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        return None
    except (OSError, InputError) as error:
        return str(error)


def storage_finding(error: str | None, node: str | None = None) -> Finding:
    """Whether sweeps can be kept where they are meant to be."""
    if error is None:
        return Finding("storage", "ok", "the sweeps folder can be written", node=node)
    mend = "give this machine the rights, or choose another folder"
    return Finding("storage", "wrong", f"the sweeps folder: {error}", mend, node)


def disk_finding(name: str, folder: str, free: int, node: str | None = None) -> Finding:
    """Whether ``free`` bytes are enough."""
    what = f"{show_bytes(free)} free for {name} ({folder})"
    if free >= LITTLE_FREE:
        return Finding("disk", "ok", what, node=node)
    state = "wrong" if free < LEAST_FREE else "warning"
    return Finding("disk", state, what, "make room there, or name another folder", node)  # type: ignore[arg-type]


def _cache(examination: Examination) -> Iterator[Finding]:
    folder = default_cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        yield Finding("cache", "ok", f"{folder} can be written")
    except OSError as error:
        yield Finding(
            "cache", "wrong", f"{folder} can not be written: {error}",
            "set THAW_CACHE to a folder that can",
        )  # fmt: skip


def _mlflow(examination: Examination) -> Iterator[Finding]:
    try:
        uri = resolve_tracking_uri(examination.tracking_uri)
    except InputError as error:
        yield Finding("MLflow", "wrong", str(error), "give another --tracking-uri")
        return
    if uri.startswith(("http://", "https://")):
        yield from examine_mlflow(uri)
    else:
        yield Finding("MLflow", "ok", f"{uri} can be written")


def _token(examination: Examination) -> Iterator[Finding]:
    path = token_file()
    if examination.mend:
        made = make_token()
        path.chmod(0o600)
        yield Finding("token", "ok", f"{path} {'was made' if made else 'is there'}, for you alone")
    elif not path.exists():
        yield Finding(
            "token", "warning", f"{path} is not there; `ray up` needs it", "thaw doctor --mend"
        )
    elif readable_by_others(path):
        yield Finding(
            "token", "wrong", f"{path} can be read by others: it opens your clusters",
            f"thaw doctor --mend, or chmod 600 {path}",
        )  # fmt: skip
    else:
        yield Finding("token", "ok", f"{path} is there, for you alone")


CHECKS: tuple[Callable[[Examination], Iterator[Finding]], ...] = (
    _versions,
    _processors,
    _gpus,
    _disk,
    _storage,
    _cache,
    _mlflow,
    _token,
)
