"""Is the winner better than the default by more than what a seed does? Sentences and statistics."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from search_spaces.domains import Choice, Float, Int, SearchSpace
from tuning.after.comparison import gains_of, paired_gain
from tuning.after.retrain import _baseline, default_configuration
from tuning.before_start.options import SweepOptions, resolve
from tuning.before_start.spaces import space_names
from tuning.command_line.tables import champion_table
from tuning.record.events import Record, read_history
from tuning.record.sweep import Sweep
from tuning.storage.saved_sweeps import save_sweep

PAIRS = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=9)


@given(pairs=PAIRS)
def test_the_interval_is_that_of_scipys_paired_t_test(pairs):
    winner, default = ([pair[i] for pair in pairs] for i in (0, 1))
    gain = paired_gain("m", winner, default, "max")
    assert gain.n_seeds == len(pairs)
    if gain.standard_deviation < 1e-6:
        return
    interval = ttest_rel(winner, default).confidence_interval(0.95)
    assert (gain.low, gain.high) == pytest.approx((interval.low, interval.high))
    assert gain.mean == pytest.approx((gain.low + gain.high) / 2)
    less_is_better = paired_gain("m", winner, default, "min")
    assert less_is_better.mean == -gain.mean
    assert less_is_better.low == pytest.approx(-gain.high)


def test_pairing_cancels_what_a_seed_does_to_both():
    """Seeds move both by 0.1; the gain of 0.01 is visible all the same."""
    default = [0.70, 0.80, 0.90, 0.75, 0.85]
    noise = [1e-4, 0.0, -1e-4, 0.0, 0.0]
    winner = [value + 0.01 + noise[seed] for seed, value in enumerate(default)]
    gain = paired_gain("test_accuracy", winner, default, "max")
    assert gain.exceeds_noise
    assert gain.sentence() == (
        "test accuracy is 0.0100 better than with the default configuration, which exceeds seed "
        "noise: the 95% interval of the gain is +0.0099 to +0.0101 over 5 paired seeds"
    )


@pytest.mark.parametrize(
    ("winner", "default", "words"),
    [
        ([0.9, 0.8], [0.8, 0.85], "0.0250 better than with the default configuration, which does"),
        ([0.7, 0.7, 0.71], [0.9, 0.9, 0.9], "worse than with the default configuration, which exc"),
        ([0.9], [0.8], "with one seed that can not be told from seed noise"),
        ([0.9, 0.9], [0.9, 0.9], "is the same as with the default configuration"),
        ([0.9, 0.9], [0.8, 0.8], "which exceeds seed noise"),  # a training without noise
    ],
)
def test_the_sentence_is_plain(winner, default, words):
    gain = paired_gain("val_accuracy", winner, default, "max")
    assert words in gain.sentence()
    assert gain.sentence().startswith("val accuracy")
    assert gain.to_json()["exceeds_seed_noise"] == gain.exceeds_noise


@pytest.mark.parametrize("name", [name for name in space_names() if name in ("digits", "mnist")])
def test_the_default_is_the_first_starting_point(workplace, name):
    sweep = resolve(SweepOptions(space=name))
    config = default_configuration(sweep)
    first = sweep.space.starting_points[0]
    assert config.items() >= first.items()
    assert config["seed"] == sweep.seed


def test_without_starting_points_the_tasks_defaults_count_then_the_middle(workplace):
    (workplace / "mine.py").write_text(
        "from search_spaces.domains import *\n"
        "SPACE = SearchSpace(name='mine', task='image_classification', domains={\n"
        "    'learning_rate': Float(1e-5, 1e-2, log=True),\n"
        "    'freezing': Choice('head', 'first_k', 'none'),\n"
        "    'frozen_blocks': Int(1, 3, when={'freezing': 'first_k'}),\n"
        "    'gradient_clip_norm': Float(0.5, 1.5),\n"
        "}, fixed={'data': 'digits', 'model': 'resnet18', 'image_size': 8})\n"
    )
    config = default_configuration(resolve(SweepOptions(space="mine.py")))
    assert config["learning_rate"] == 1e-3
    assert config["freezing"] == "none"
    assert config["frozen_blocks"] is None
    assert config["gradient_clip_norm"] == 1.0


def test_a_users_space_without_starting_points_has_the_middle(workplace, toy_sweep):
    space = SearchSpace(
        name="own",
        domains={
            "x": Float(0, 4),
            "kind": Choice("plain", "scaled"),
            "scale": Int(1, 3, when={"kind": "plain"}),
        },
    )
    sweep = Sweep(**{**vars(toy_sweep()), "space": space})
    assert default_configuration(sweep) == {"seed": 0, "x": 2.0, "kind": "plain", "scale": 2}


def test_why_there_is_no_comparison(toy_sweep, run):
    sweep = toy_sweep(trials=2, seed=1)
    run(sweep)
    trials = read_history(sweep.folder).trials
    assert "--no-baseline" in _baseline(sweep, trials[1].config, 3, wanted=False)[1]
    assert "--seeds 2 or more" in _baseline(sweep, trials[1].config, 1, wanted=True)[1]
    assert _baseline(sweep, trials[0].config, 3, wanted=True) == (
        None,
        "it is the default configuration: nothing that was searched is better",
    )
    config, why_not = _baseline(sweep, trials[1].config, 3, wanted=True)
    assert (config, why_not) == (trials[0].config, "")


def rows(metric: str, values: list[float], tests: list[float] | None) -> list[dict]:
    return [
        {metric: value, "test": None if tests is None else {"accuracy": tests[seed], "loss": 0.0}}
        for seed, value in enumerate(values)
    ]


def test_the_test_split_has_the_last_word_where_there_is_one(tiny_digits, toy_sweep):
    winner = rows("val_accuracy", [0.9, 0.8], [0.7, 0.8])
    default = rows("val_accuracy", [0.8, 0.6], [0.6, 0.6])
    gains = gains_of(tiny_digits(), winner, default)
    assert [gain.metric for gain in gains] == ["val_accuracy", "test_accuracy"]
    assert [gain.mean for gain in gains] == pytest.approx([0.15, 0.15])
    own = gains_of(toy_sweep(), *[rows("value", [1.0, 2.0], None)] * 2)
    assert [gain.metric for gain in own] == ["value"]


def test_readings_of_the_test_split_are_recorded_and_told(toy_sweep, capsys):
    sweep = toy_sweep()
    save_sweep(sweep)
    record = Record(sweep.folder)
    for number in (4, 7):
        record.append("test_read", trial=None, number=number, n_models=6)
    record.close()
    assert read_history(sweep.folder).test_reads == [4, 7]
    generator = random.Random(0)
    seeds = [
        {"seed": seed, "value": generator.random(), "test": {"accuracy": 0.5}, "checkpoint": ""}
        for seed in range(2)
    ]
    document = {
        "sweep": "toy",
        "trial": 7,
        "metric": "value",
        "trial_value": 0.5,
        "test": {"accuracy": 0.5},
        "test_mean": {"accuracy": 0.5},
        "test_standard_deviation": {"accuracy": 0.0},
        "mean": 0.25,
        "standard_deviation": 0.125,
        "seeds": seeds,
        "default": {"config": {}, "seeds": seeds},
        "verdict": "it is better",
        "test_reads_before": 2,
        "test_read_for_trials": [4, 7],
        "champion_seed": 0,
        "checkpoint": "folder",
        "model_uri": None,
    }
    champion_table(document)
    out = capsys.readouterr().out
    assert "the test split had been read 2 times before, to retrain trials 4, 7" in out
    mean = sum(row["value"] for row in seeds) / 2
    for part in ("the default", "seed 1", "deviation", f"{mean:.4f}", "it is better"):
        assert part in out
    assert re.search(r"test accuracy +0\.5000 +0\.5000 +0\.5000 +0\.0000 ", out)
    champion_table({**document, "test_reads_before": 1, "test_read_for_trials": [4]})
    assert "had been read once before, to retrain trial 4:" in capsys.readouterr().out
