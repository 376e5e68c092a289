"""What commands share: parameters, among them those that options declare, and their output."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer

from tuning.record.option_checks import flag_of, read_values
from tuning.record.options import OPTIONS, PANELS, RESUMABLE, TYPES, SweepOptions

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

Command = TypeVar("Command", bound=Callable[..., None])
_DEFAULTS = {each.name: each.default for each in fields(SweepOptions)}


def _type(name: str) -> Any:
    """The type of what the command line has for an option: text where it is read later."""
    declared = TYPES[name]
    kinds = get_args(declared) or (declared,)
    if OPTIONS[name].read is not None:
        return str
    if Sequence in (get_origin(declared), *map(get_origin, kinds)):
        return list[str]
    return next((kind for kind in (bool, int, float) if kind in kinds), str)


def _info(name: str, *, resume: bool = False, **more: Any) -> Any:
    """What the parser of command lines is told of an option."""
    declared = OPTIONS[name]
    text = (declared.resume if resume else None) or declared.help
    return typer.Option(
        flag_of(name),
        help=f"{text} May be repeated." if _type(name) == list[str] else text,
        metavar=declared.metavar,
        envvar=declared.env,
        show_envvar=False,
        **more,
    )


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Check everything, show five configurations, and start nothing."
    ),
]
AcceptChanges = Annotated[
    bool, typer.Option("--accept-changes", help="Go on although code or data have changed.")
]
Space = Annotated[
    str, typer.Argument(metavar="SPACE", help=OPTIONS["space"].help, show_default=False)
]
SweepName = Annotated[
    str, typer.Argument(metavar="NAME", help="A sweep's name, folder or URI.", show_default=False)
]
SweepsFolder = Annotated[str, _info("sweeps_folder")]
TrackingUri = Annotated[str | None, _info("tracking_uri")]


def with_sweep_options(command: Command) -> Command:
    """Give a command with ``**options`` every option of a sweep as a parameter.

    A parameter that the command declares itself replaces the option of the same name.
    """
    return _with(command, [_parameter(name) for name in OPTIONS])


def with_resume_options(command: Command) -> Command:
    """Give a command with ``**changes`` every option that a resume may change as a parameter."""
    return _with(command, [_parameter(name, resume=True) for name in RESUMABLE])


def _with(command: Command, declared: Sequence[inspect.Parameter]) -> Command:
    """The command with a signature put together; the parser of command lines looks at that."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    named = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.kind is not p.VAR_KEYWORD]
    more = [p for p in declared if p.name not in {own.name for own in named}]
    ordered = sorted(more, key=lambda p: PANELS.index(OPTIONS[p.name].panel))
    command.__signature__ = inspect.Signature([*named, *ordered])  # type: ignore[attr-defined]
    return command


def _parameter(name: str, *, resume: bool = False) -> inspect.Parameter:
    info = _info(name, resume=resume, rich_help_panel=OPTIONS[name].panel)
    default = None if resume or _DEFAULTS[name] == () else _DEFAULTS[name]
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(
        name, kind, default=default, annotation=Annotated[_type(name) | None, info]
    )


def from_command_line(values: Mapping[str, Any]) -> SweepOptions:
    """The options of a sweep among ``values``, which are by the names of parameters.

    Raises:
        InputError: a text is no value of its option.
    """
    given = {name: values[name] for name in OPTIONS}
    return SweepOptions(**read_values({**given, "settings": given["settings"] or ()}))


@contextmanager
def stdout_for_json_only() -> Iterator[None]:
    """Send what libraries print to stderr meanwhile, so that stdout holds only the result."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def show(document: Any, as_json: bool, table: Callable[[Any], None]) -> None:
    """Print a command's result, as JSON or as a table."""
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        table(document)
