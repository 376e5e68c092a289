"""An option is declared once: the commands' help, the saved sweep and MLflow all follow from it."""

from __future__ import annotations

import re

import pytest
import typer
from helpers import TOY_SPACE
from option_examples import BASE, EXAMPLES

from trainables.errors import InputError
from tuning.before_start.options import resolve
from tuning.before_start.resume_options import change_options
from tuning.command_line import cli
from tuning.command_line.parameters import from_command_line
from tuning.record.option_checks import check_values, flag_of, read_values
from tuning.record.options import KEPT_NAMES, OPTIONS, RESUMABLE, SweepOptions
from tuning.storage.saved_sweeps import open_sweep, save_sweep
from tuning.tracking.mlflow_runs import sweep_params

COMMANDS = typer.main.get_command(cli.app).commands


def options_of(*arguments: str) -> SweepOptions:
    context = COMMANDS["sweep"].make_context("sweep", list(arguments))
    return from_command_line(context.params)


def help_of(command: str) -> dict[str, tuple[list[str], str]]:
    """Parameter -> how it is written, and its help."""
    return {each.name: (each.opts, each.help) for each in COMMANDS[command].params}


def test_there_is_an_example_of_every_option():
    assert len(OPTIONS) > 25
    assert set(EXAMPLES) == set(OPTIONS)


def test_every_option_is_in_the_help_of_the_commands_that_take_it():
    sweep, resume, submit = (help_of(command) for command in ("sweep", "resume", "submit"))
    for name, declared in OPTIONS.items():
        flag = ["space"] if name == "space" else [flag_of(name)]
        flags, text = sweep[name]
        assert (flags, text.removesuffix(" May be repeated.")) == (flag, declared.help)
        if name not in ("address", "space"):  # the cluster's, and optional with --resume
            assert submit[name] == sweep[name]
        if name in RESUMABLE:
            flags, text = resume[name]
            assert flags == [flag_of(name)]
            assert text.removesuffix(" May be repeated.") == (declared.resume or declared.help)
        elif name != "sweeps_folder":  # where a resume finds the sweep; it does not change it
            assert name not in resume or name == "name"
    assert set(RESUMABLE) >= {"space", "settings", "trials", "address"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_made_of_whole_phrases(command):
    texts = [each.help for each in COMMANDS[command].params if each.name != "help"]
    for text in texts:
        assert text, command
        assert re.match("[A-Z]", text), text
        assert text.endswith("."), text
        assert not text.startswith("Of "), text


HERE = {**EXAMPLES, "storage": ["--storage", "sqlite:///study.db"]}  # which can be opened


@pytest.mark.parametrize("name", [name for name in KEPT_NAMES if name != "address"])
def test_every_option_survives_save_and_open_and_is_logged_if_it_says_so(
    workplace, monkeypatch, name
):
    monkeypatch.setattr("tuning.record.sweep.this_machine", lambda: (8, 2))
    plain, sweep = (
        resolve(options_of(TOY_SPACE, *BASE, "--name", "toy", *given)) for given in ([], HERE[name])
    )
    value = getattr(sweep, name)
    assert value != getattr(plain, name)
    save_sweep(sweep)
    assert getattr(open_sweep("toy", "sweeps"), name) == (
        str(sweep.folder / "searcher" / value.rpartition("/")[2]) if name == "searcher" else value
    )
    logged = sweep_params(sweep)
    assert (name in logged) == OPTIONS[name].is_logged
    assert logged.get(name, value) == value


CHANGES = {
    **dict.fromkeys(("trials", "patience", "confirm", "confirm_seeds"), 20),
    **dict.fromkeys(("time_budget_seconds", "gpu_hours", "target"), 2.5),
    "settings": ["kind=plain"],
    "space": TOY_SPACE,
    "address": "local",
}


def test_a_resume_changes_what_it_may_and_nothing_else(toy_sweep):
    sweep = toy_sweep()
    assert set(CHANGES) == set(RESUMABLE)
    changed = change_options(sweep, CHANGES)
    for name in set(CHANGES) & set(KEPT_NAMES) - {"address"}:
        assert getattr(changed, name) == CHANGES[name]
    assert changed.space.fixed["kind"] == "plain"
    assert change_options(sweep, dict.fromkeys(CHANGES)) == sweep
    with pytest.raises(InputError, match="--seed: a resume can not change it; valid: --space, "):
        change_options(sweep, {"seed": 5})
    with pytest.raises(InputError, match="--trials = 0: must be at least 1"):
        change_options(sweep, {"trials": 0})


@pytest.mark.parametrize("name", [name for name, each in OPTIONS.items() if each.at_least == 0])
def test_bounds_are_held(name):
    check_values({name: 0})
    with pytest.raises(InputError, match=f"{flag_of(name)} = -1: must be at least 0"):
        check_values({name: -1})


def test_quantities_are_read_as_people_write_them():
    texts = {
        "time_budget_seconds": ("1.5h", 5400.0),
        "epoch_timeout_seconds": ("90", 90.0),
        "checkpoint_budget_bytes": ("20 GB", 20 * 10**9),
        "prefix_cache_bytes": ("auto", None),
        "gpus_per_trial": ("0.5", 0.5),
    }
    read = {name for name, each in OPTIONS.items() if each.read is not None}
    assert read == set(texts)
    values = read_values({name: text for name, (text, _) in texts.items()})
    assert values == {name: value for name, (_, value) in texts.items()}
    assert read_values({"prefix_cache_bytes": "off"}) == {"prefix_cache_bytes": 0}
    with pytest.raises(InputError, match="--time-budget = 'soon': must be a duration such as 90s"):
        read_values({"time_budget_seconds": "soon"})
