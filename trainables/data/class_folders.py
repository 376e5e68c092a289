"""Which splits, classes and files a folder of images has. Opens no file; torch-free."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.errors import InputError, some

_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_HIDDEN = (".", "__MACOSX", "Thumbs.db", "desktop.ini")  # what operating systems leave behind

Item = tuple[Path, int]  # an image file and its class


@dataclass(frozen=True)
class Layout:
    """Class folders by split where the folder has splits of its own, else all under ``train``."""

    root: Path
    classes: tuple[str, ...]
    class_folders: Mapping[str, Mapping[str, Path]]
    notes: tuple[str, ...]

    def items(self) -> dict[str, list[Item]]:
        """All files in the class folders, in a fixed order."""
        return {
            split: [
                (path, target)
                for target, class_name in enumerate(self.classes)
                if class_name in by_class
                for path in _files(by_class[class_name])
            ]
            for split, by_class in self.class_folders.items()
        }


def read_layout(root: Path) -> Layout:
    """Find the splits and classes of a data folder.

    Raises:
        InputError: there are no two classes, or a split has a class that the training split lacks.
    """
    splits, notes = _split_folders(root)
    class_folders: dict[str, Mapping[str, Path]] = {}
    for split, folder in splits.items():
        subfolders, loose = _entries(folder)
        if loose:
            notes.append(
                f"not used, in no class folder: {some([relative(path, root) for path in loose])}"
            )
        if subfolders or split == "train":
            class_folders[split] = subfolders
        else:
            notes.append(f"not used, has no class folders: {relative(folder, root)}")
    classes = _sorted_classes(class_folders["train"])
    _check_classes(root, classes, class_folders)
    return Layout(root, classes, class_folders, tuple(notes))


def _split_folders(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folders of the splits, or ``root`` as train; notes on what is left aside.

    A class may be called train as well: its folder then holds images, not folders, or stands beside
    other classes.
    """
    subfolders, _ = _entries(root)
    found = {
        split: path
        for split, names in _SPLIT_FOLDERS.items()
        for name, path in subfolders.items()
        if name.lower() in names
    }
    others = [name for name, path in subfolders.items() if path not in found.values()]
    if "train" in found and (len(found) > 1 or not others) and _entries(found["train"])[0]:
        return found, [f"not used, beside the splits: {some(others)}"] if others else []
    return {"train": root}, []


def _sorted_classes(names: Iterable[str]) -> tuple[str, ...]:
    """By number if all are numbers, else by name."""
    names = list(names)
    numbers = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=int if numbers else None))


def _check_classes(
    root: Path, classes: Sequence[str], class_folders: Mapping[str, Mapping[str, Path]]
) -> None:
    if len(classes) < 2:
        found = f"only one, {classes[0]!r}" if classes else "none"
        inner = [path for path in class_folders["train"].values() if len(_entries(path)[0]) > 1]
        hint = f"; did you mean {str(inner[0])!r}?" if inner else ""
        raise InputError(
            f"data = {str(root)!r}: must hold a folder of images for each of two or more classes; "
            f"found {found}{hint}"
        )
    for split, by_class in class_folders.items():
        unknown = [name for name in by_class if name not in classes]
        if unknown:
            raise InputError(
                f"data = {str(root)!r}: its {split} folder has classes that its train folder "
                f"lacks: {some(unknown)}"
            )


def _entries(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """Subfolders by name, and files, of a folder; sorted.

    A pipe would be waited for and a dangling link has no size: they are left out, being neither.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(
                (entry for entry in found if not entry.name.startswith(_HIDDEN)),
                key=lambda e: e.name,
            )
            folders = {entry.name: folder / entry.name for entry in entries if entry.is_dir()}
            return folders, [folder / entry.name for entry in entries if entry.is_file()]
    except OSError as error:
        raise InputError(
            f"data folder {str(folder)!r} can not be listed: {error.strerror}"
        ) from None


def _files(folder: Path) -> Iterator[Path]:
    """All files below ``folder`` in a fixed order; links are followed, but into no folder twice."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        stat = current.stat()
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders, files = _entries(current)
        waiting += reversed(folders.values())
        yield from files


def relative(path: Path, root: Path) -> str:
    """Below ``root`` if it lies there, printable even where the file's name is not."""
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return os.fsencode(shown).decode("utf-8", "replace")
