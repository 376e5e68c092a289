"""The command line. Imports nothing heavy until it must, so that help and errors come at once."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

import typer

from search_spaces.domains import SpaceError
from trainables.errors import InputError, RunFailed
from tuning.command_line import (
    cluster_commands,
    doctor_commands,
    listing_commands,
    sent_commands,
    sweep_commands,
)
from tuning.command_line.parameters import DONE, FAILED, INTERRUPTED, WRONG_INPUT

_USAGE_ERROR: Any = typer.BadParameter.__base__  # click's or typer's own, as versions differ

COMMANDS = (
    sweep_commands.sweep,
    sweep_commands.resume,
    sweep_commands.trials,
    sweep_commands.best,
    sweep_commands.retrain,
    sweep_commands.predict,
    listing_commands.ui,
    listing_commands.spaces,
    listing_commands.tasks,
    cluster_commands.submit,
    sent_commands.status,
    sent_commands.logs,
    sent_commands.stop,
    sent_commands.fetch,
    doctor_commands.doctor,
)


def _make_app() -> typer.Typer:
    made = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Find the best way to fine-tune a PyTorch model, and prove it.",
    )
    for command in COMMANDS:
        made.command()(command)
    return made


app = _make_app()


def console() -> NoReturn:
    """``main`` of a process that is no one else's, which then ends at once.

    Taking all of torch, Ray and MLflow apart, object by object, takes Python two seconds.
    """
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it has gone
            stream.flush()
    os._exit(code)


def main() -> None:
    """Run the command line; wrong input ends with 2 and one clear message, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(standalone_mode=False)  # else typer frames its messages and wraps them
    except KeyboardInterrupt:
        code = INTERRUPTED
    except _USAGE_ERROR as error:
        print(_explain_usage(error), end="", file=sys.stderr)
        code = WRONG_INPUT
    except (BrokenPipeError, SystemExit) as error:
        # The reader of our output, such as `head`, has had enough; typer and rich exit with 1.
        if BrokenPipeError not in (type(error), type(error.__context__)):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    except (SpaceError, InputError, RunFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        code = FAILED if isinstance(error, RunFailed) else WRONG_INPUT
    if code == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    if code:
        sys.exit(code)


def _interrupt(signal_number: int, frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut the orderly end short
    raise KeyboardInterrupt


def _explain_usage(error: Any) -> str:
    """What typer has found wrong with a command line, worded as the rest of our messages are."""
    from trainables.config import rule

    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":  # typer has printed the help instead
        return ""
    problems = getattr(error.__cause__, "errors", None)  # of pydantic, which converts for typer
    if problems is None:
        message = error.format_message()
    else:
        problem = problems()[0]
        message = f"{error.param.opts[0]} = {problem['input']!r}: must be {rule(problem)}"
    hint = "" if context is None else f"see {context.command_path} --help\n"
    return f"error: {message}\n{hint}"
