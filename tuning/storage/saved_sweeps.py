"""Sweeps as they are saved: written into their folder, found again by name, and opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from search_spaces.domains import SearchSpace
from trainables.errors import InputError, unknown
from trainables.files import write_whole
from tuning.record.moved_paths import Moved, find_moved, relocate
from tuning.record.sweep import SWEEP_FILE, Sweep, default_cache_folder
from tuning.record.uris import check_uri, is_uri, join_uri, split_uri
from tuning.storage.code_archive import CODE_FILE, pack_code
from tuning.storage.remote import RemoteError, RemoteFolder
from tuning.storage.working_copy import Say, fetch, say_on_stderr, working_copy

_FORMAT = 2  # raised when descriptions change so that older ones can not be read


def save_sweep(sweep: Sweep) -> None:
    """Write the description into its folder."""
    values = {
        "format": _FORMAT,
        **{name: value for name, value in vars(sweep).items() if name != "space"},
        # Where it was written, to see later what has moved.
        "folder": str(sweep.folder) if sweep.home is None else None,
        "home": None,
        "train_file": None if sweep.train_file is None else sweep.train_file.name,
        "train_source": None if sweep.train_source is None else str(sweep.train_source),
        "began_in": sweep.began_in or sweep.place,
        "cache_folder": None,
        "moved": {},
        "searcher": _searcher_in(None, sweep.searcher),
        "space": sweep.space.to_json(),
    }
    sweep.folder.mkdir(parents=True, exist_ok=True)
    if sweep.train_file is not None:
        _copy(sweep.train_file, sweep.folder / sweep.train_file.name)
        (sweep.folder / CODE_FILE).write_bytes(pack_code(sweep.train_file))
    if ":" in sweep.searcher:
        copy = _searcher_in(sweep.folder, sweep.searcher)
        _copy(Path(sweep.searcher.rpartition(":")[0]), Path(copy.rpartition(":")[0]))
    write_whole(sweep.folder / SWEEP_FILE, json.dumps(values, indent=1))


def _searcher_in(folder: Path | None, searcher: str) -> str:
    """``FILE.py:NAME`` with the file in a sweep's folder, or with no folder; others as they are."""
    file, colon, name = searcher.rpartition(":")
    if not colon:
        return searcher
    # A folder of its own: the user's training may be in a file of the same name.
    return f"{Path(file).name if folder is None else folder / 'searcher' / Path(file).name}:{name}"


def _copy(file: Path, copy: Path) -> None:
    if copy != file:
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())


def place_of(name: str, sweeps_folder: Path | str, cache_folder: Path) -> tuple[Path, str | None]:
    """The folder of a sweep on this machine, and its home, if that is a URI.

    Raises:
        InputError: the URI is none that we take.
    """
    if is_uri(name) or is_uri(sweeps_folder):
        home = name if is_uri(name) else join_uri(str(sweeps_folder), name)
        check_uri(home, "sweep" if is_uri(name) else "--sweeps-folder")
        return working_copy(home, cache_folder).resolve(), home
    return (Path(sweeps_folder) / name).resolve(), None


def open_sweep(name: str, sweeps_folder: Path | str, say: Say = say_on_stderr) -> Sweep:
    """The sweep that was saved as ``name``, or in the folder or at the URI ``name``.

    Args:
        say: told if this machine had something of it that its home lacks.

    Raises:
        InputError: there is none, its description is damaged, or its home does not answer.
    """
    if (Path(name) / SWEEP_FILE).is_file():
        folder, home = Path(name).resolve(), None
    else:
        folder, home = place_of(name, sweeps_folder, default_cache_folder())
    try:
        if home is not None:
            fetch(home, folder, say)
        path = folder / SWEEP_FILE
        if not path.is_file():
            raise _unknown_sweep(name, sweeps_folder, home)
        values = dict(json.loads(path.read_text()))
        if values.pop("format", 1) != _FORMAT:
            raise InputError(
                f"sweep {name!r} was made by another version of Thaw, which alone can read it: "
                "use that version, or start the sweep anew"
            )
        return _from_json(values, folder, home)
    except RemoteError as error:
        raise InputError(f"sweep {name!r}: {error}") from error
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(f"sweep description {str(path)!r} is damaged: {reason}") from error


def _unknown_sweep(name: str, sweeps_folder: Path | str, home: str | None) -> InputError:
    """What to say where there is no such sweep."""
    if home is None:
        found = sorted(Path(sweeps_folder).glob(f"*/{SWEEP_FILE}"))
        names, where = [file.parent.name for file in found], str(Path(sweeps_folder).resolve())
    else:
        where, name = split_uri(home)
        names = RemoteFolder(where).folders()
    hint = f"{unknown('sweep', name, names)}" if names else f"unknown sweep {name!r}"
    return InputError(f"{hint}; looked in {where!r}")


def _from_json(values: Mapping[str, Any], folder: Path, home: str | None) -> Sweep:
    """The sweep as saved, with what has moved along with its folder at the new places."""
    space = SearchSpace.from_json(values["space"])
    tracking_file = values["tracking_uri"].removeprefix("sqlite:///")
    source = values.get("train_source")
    moved: Moved = {}
    if values["folder"] is not None:
        paths = {**space.fixed, ".tracking": tracking_file, ".source": source}
        moved = find_moved(paths, Path(values["folder"]), folder)
    source = None if source is None else Path(moved.get(source, source))
    train_file = values["train_file"]
    began_in = values.get("began_in") or values["folder"]
    return Sweep(
        **{
            **values,
            "folder": folder,
            "home": home,
            "train_file": None if train_file is None else folder / train_file,
            "train_source": source,
            "began_in": began_in,
            "cache_folder": default_cache_folder(),
            "searcher": _searcher_in(folder, values["searcher"]),
            "space": replace(space, fixed=relocate(space.fixed, moved)),
            "tracking_uri": values["tracking_uri"].replace(
                tracking_file, moved.get(tracking_file, tracking_file)
            ),
            "moved": moved,
        }
    )
