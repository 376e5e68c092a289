"""Data made ready once per machine: arrays on disk, memory-mapped by every training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from trainables.errors import InputError
from trainables.files import whole_folder
from trainables.prepared import SPLITS, Array, DataInfo, PreparedData, Ragged, Split

_FORMAT = 2  # raise it when the files below, or how any task prepares its arrays, change


Made = tuple[DataInfo, Mapping[str, Split]]
Make = Callable[[Path], Made]  # (folder for the data's own files) -> what is prepared


def file_identity(paths: Iterable[Path]) -> str:
    """A digest that changes when a file is added, removed, resized or rewritten; reads none."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        stat = path.stat()
        digest.update(bytes(path.resolve()))  # a name need not be valid UTF-8
        digest.update(f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def prepare_once(
    cache_folder: Path,
    identity: Mapping[str, Any],
    make: Make,
) -> PreparedData:
    """Return what an earlier call with the same ``identity`` made, else ``make(assets_folder)``.

    Trainings that ask at the same moment make it once: the others wait for the first. A folder
    appears under its final name only when it is whole, so a killed process leaves nothing half-made
    behind.
    """
    key = hashlib.sha256(
        json.dumps([_FORMAT, dict(identity)], sort_keys=True).encode()
    ).hexdigest()[:20]
    folder = cache_folder / "data" / key
    if not (folder / "info.json").exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock", timeout=3600):
                if not (folder / "info.json").exists():
                    _write(folder, make)
        except OSError as error:
            raise InputError(
                f"cache folder {str(cache_folder)!r} can not be written: {error}"
            ) from error
    return _read(folder)


def _write(folder: Path, make: Make) -> None:
    with whole_folder(folder) as partial:
        (partial / "assets").mkdir()
        try:
            info, splits = make(partial / "assets")
        except OSError as error:
            raise InputError(f"the data can not be read: {error}") from error
        digest = hashlib.sha256()
        for split_name in SPLITS:
            for name, array in _plain_arrays(splits[split_name].arrays):
                contiguous = np.ascontiguousarray(array)
                np.save(partial / f"{split_name}.{name}.npy", contiguous)
                digest.update(f"{split_name}.{name}".encode())
                digest.update(contiguous.view(np.uint8).data if contiguous.size else b"")
        content = {**asdict(info), "fingerprint": digest.hexdigest()[:16]}
        (partial / "info.json").write_text(json.dumps(content, indent=1))


def _plain_arrays(arrays: Mapping[str, Array]) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays as files hold them: a ragged one is two."""
    for name, array in arrays.items():
        if isinstance(array, Ragged):
            yield f"{name}.values", array.values
            yield f"{name}.starts", array.starts
        else:
            yield name, array


def _read(folder: Path) -> PreparedData:
    info = DataInfo.from_json(json.loads((folder / "info.json").read_text()))
    return PreparedData(
        info, {name: _read_split(folder, name) for name in SPLITS}, folder / "assets"
    )


def _read_split(folder: Path, split_name: str) -> Split:
    plain = {
        path.name.removeprefix(f"{split_name}.").removesuffix(".npy"): np.load(path, mmap_mode="r")
        for path in sorted(folder.glob(f"{split_name}.*.npy"))
    }
    arrays: dict[str, Array] = {name: each for name, each in plain.items() if "." not in name}
    for name in [name.removesuffix(".values") for name in plain if name.endswith(".values")]:
        arrays[name] = Ragged(plain[f"{name}.values"], plain[f"{name}.starts"])
    return Split(arrays)


def stratified_split(
    targets: Sequence[int] | np.ndarray, fractions: Sequence[float], seed: int
) -> tuple[np.ndarray, ...]:
    """Split sample indices so that each class is divided in the same proportions.

    Args:
        targets: class index of each sample [n].
        fractions: share of each part but the last, which takes the rest; each in [0, 1), their
            sum below 1.

    Returns:
        One sorted index array per part, the rest last. Classes with few samples go to the last part
        first, so that it knows every class (``sklearn.model_selection.train_test_split`` refuses a
        class of one sample).
    """
    targets = np.asarray(targets)
    generator = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(fractions) + 1)]
    for target in np.unique(targets):
        indices = generator.permutation(np.flatnonzero(targets == target))
        counts = [round(len(indices) * fraction) for fraction in fractions]
        start = 0
        for part, count in zip(parts, counts, strict=False):
            count = min(
                count, len(indices) - start - 1
            )  # the last part gets one, whatever the fractions
            part.append(indices[start : start + count])
            start += count
        parts[-1].append(indices[start:])
    return tuple(np.sort(np.concatenate(part)) if part else np.array([], int) for part in parts)
