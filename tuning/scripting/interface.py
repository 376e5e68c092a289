"""Thaw from a script or a notebook: what the command line does, as calls.

Nothing is printed unless ``show`` asks for it. What is wrong is raised: ``InputError`` before
anything has started, ``RunFailed`` afterwards.
"""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from trainables.errors import InputError, RunFailed, unknown
from tuning.control.view import View
from tuning.record.events import Event, SweepHistory, read_history
from tuning.record.options import OPTIONS, RESUMABLE, TYPES, SweepOptions
from tuning.record.sweep import Sweep
from tuning.storage.saved_sweeps import open_sweep as open_saved

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["InputError", "OpenSweep", "RunFailed", "open_sweep", "predict", "resume", "sweep"]

P = ParamSpec("P")


class _Quiet:
    """A view that shows nothing."""

    def say(self, message: str) -> None: ...

    def begin(self, sweep: Sweep, history: SweepHistory, n_trials: int) -> None: ...

    def update(self, event: Event) -> None: ...

    def end(self) -> None: ...


def _view(show: bool) -> View:
    from tuning.command_line.live_view import make_view

    return make_view() if show else _Quiet()


def _run(resolved: Sweep, show: bool, accept_changes: bool = False) -> OpenSweep:
    from tuning.session.sitting import start

    prepared, result = start(resolved, _view(show), accept_changes=accept_changes)
    if result.interrupted:
        raise KeyboardInterrupt(f"sweep {prepared.name} was interrupted and can be resumed")
    if result.has_failed:
        raise RunFailed(
            f"sweep {prepared.name} ended because {result.summary['ended_because']}; trials: "
            f"{result.summary['trials']}; their errors are in tuning.open_sweep(…).trials()"
        )
    return OpenSweep(prepared)


def _sweeps_folder(given: str | Path | None) -> str | Path:
    return given or os.environ.get("THAW_SWEEPS_FOLDER") or "sweeps"


@dataclass(frozen=True)
class OpenSweep:
    """A sweep and what has come of it so far, read from its record at each call."""

    description: Sweep

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def best(self) -> dict[str, Any]:
        """The best trial as `thaw best --json` prints it: trial, value, config, checkpoint …

        Raises:
            InputError: no trial has reached a value.
        """
        from tuning.session.summary import describe_best

        return describe_best(self.description, self._history())

    @property
    def summary(self) -> dict[str, Any]:
        """The whole sweep as `thaw sweep --json` prints it."""
        from tuning.session.summary import summarize

        return summarize(self.description, self._history())

    def trials(self) -> pd.DataFrame:
        """One row for each trial, as `thaw trials` shows them."""
        import pandas as pd

        from tuning.after.results import trial_rows

        return pd.DataFrame(trial_rows(self.description, self._history()))

    def retrain(
        self,
        *,
        seeds: int = 1,
        trial: int | None = None,
        workers: int | None = None,
        baseline: bool = True,
        engine: str | None = None,
        show: bool = False,
    ) -> dict[str, Any]:
        """Train the best configuration again, test it once, and register it as the champion.

        Args:
            seeds: number of trainings; one repeats the trial, more take a fresh seed each.
            trial: number of the trial to retrain; None: the best.
            workers: number of processes that train together; None: that of the trials.
            baseline: with two seeds or more, also train the default configuration for comparison.
            engine: ray or inprocess; None: that of the sweep.
            show: print how it goes on stderr.

        Returns the document that `thaw retrain --json` prints.

        Raises:
            InputError: there is no such trial, or the sweep can not be retrained now.
            RunFailed: a training failed, or MLflow did not take the champion.
        """
        from tuning.after.champion import check_logged
        from tuning.after.retrain import retrain as run

        document = run(
            self.description,
            trial_number=trial,
            n_workers=workers,
            n_seeds=seeds,
            view=_view(show),
            baseline=baseline,
            engine=engine,
        )
        check_logged(document)
        return document

    def _history(self) -> SweepHistory:
        return read_history(self.description.folder)


@dataclass(frozen=True)
class _Call(SweepOptions):
    """The arguments of ``sweep``."""

    show: bool = False  # print how it goes on stderr


def _as_call(
    arguments: Callable[P, _Call],
) -> Callable[[Callable[[_Call], OpenSweep]], Callable[P, OpenSweep]]:
    """Turn a function of ``_Call`` into one with the parameters of its constructor."""

    def decorate(function: Callable[[_Call], OpenSweep]) -> Callable[P, OpenSweep]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> OpenSweep:
            return function(arguments(*args, **kwargs))

        parameters = inspect.signature(_Call).parameters.values()
        typed = [p.replace(annotation=TYPES.get(p.name, bool)) for p in parameters]
        _show_options(call, typed, {name: each.help for name, each in OPTIONS.items()})
        return call

    return decorate


def _as_resume(function: Callable[..., OpenSweep]) -> Callable[..., OpenSweep]:
    """Show in a function's signature and docstring which options its ``**changes`` may be."""
    *own, changes = inspect.signature(function).parameters.values()
    kind = changes.KEYWORD_ONLY
    changeable = [
        inspect.Parameter(name, kind, default=None, annotation=TYPES[name] | None)
        for name in RESUMABLE
    ]
    helps = {name: OPTIONS[name].resume or OPTIONS[name].help for name in RESUMABLE}
    _show_options(function, [*own, *changeable], helps)
    return function


def _show_options(
    function: Any, parameters: Sequence[inspect.Parameter], helps: Mapping[str, str]
) -> None:
    """Give a function a signature, and the help of options in the place of ``{options}``."""
    wrap = partial(textwrap.fill, width=92, subsequent_indent=" " * 12)
    lines = [wrap(f"{name}: {text}") for name, text in helps.items()]
    function.__doc__ = (function.__doc__ or "").replace("{options}", f"\n{' ' * 8}".join(lines))
    function.__signature__ = inspect.Signature(parameters, return_annotation=OpenSweep)


@_as_call(_Call)
def sweep(call: _Call) -> OpenSweep:
    """Search a space for the best configuration, and wait for the end of the search.

    Args:
        show: print how it goes on stderr.
        {options}

    Raises:
        InputError: something is wrong; nothing was started.
        RunFailed: no trial has reached a value, or too many have failed.
        KeyboardInterrupt: it was interrupted in order; ``resume`` continues it.
    """
    from tuning.before_start.options import resolve

    folder = None if call.sweeps_folder == "sweeps" else call.sweeps_folder
    return _run(resolve(replace(call, sweeps_folder=_sweeps_folder(folder))), call.show)


@_as_resume
def resume(
    name: str,
    *,
    accept_changes: bool = False,
    sweeps_folder: str | Path | None = None,
    show: bool = False,
    **changes: Any,
) -> OpenSweep:
    """Continue an interrupted sweep, or add trials to a finished one.

    Args:
        name: the sweep's name, folder or URI.
        accept_changes: go on although code or data have changed.
        sweeps_folder: as for ``sweep``.
        show: print how it goes on stderr.
        {options}

    Raises:
        InputError: something is wrong; nothing was started.
        RunFailed: no trial has reached a value, or too many have failed.
        KeyboardInterrupt: it was interrupted in order, and can be resumed again.
    """
    from tuning.before_start.resume_options import change_options

    if wrong := sorted(set(changes) - set(RESUMABLE)):
        raise InputError(unknown("option of resume", wrong[0], RESUMABLE))
    found = open_sweep(name, sweeps_folder)
    return _run(change_options(found.description, changes), show, accept_changes)


def open_sweep(name: str, sweeps_folder: str | Path | None = None) -> OpenSweep:
    """A saved sweep by its name, folder or URI.

    Args:
        sweeps_folder: where sweeps have their folders; None: $THAW_SWEEPS_FOLDER, else ``sweeps``.

    Raises:
        InputError: there is no such sweep, or it can not be read.
    """
    return OpenSweep(open_saved(name, _sweeps_folder(sweeps_folder), say=_Quiet().say))


def predict(
    model: str | Path, items: Sequence[str | Path], *, tracking_uri: str | None = None
) -> list[dict[str, Any]]:
    """What a trained model says of image files or texts; one row for each.

    Args:
        model: a checkpoint's folder, or ``models:/NAME@champion``.
        items: image files, texts, or files with one text in each line.
        tracking_uri: address of MLflow; None: $MLFLOW_TRACKING_URI, else mlflow.db in this folder.

    Raises:
        InputError: the model or an item can not be read.
    """
    from tuning.after.predict import predict as run

    return run(str(model), [str(item) for item in items], tracking_uri)
