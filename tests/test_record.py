"""What the record keeps at hand as trials end equals what a look at all of them would find."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tuning.checkpoints import CheckpointKeeper, trial_folder
from tuning.hosting import BEST, LAST
from tuning.record import ENDED_STATES, Best, SweepHistory, TrialRecord, ranked

STATES = st.sampled_from(ENDED_STATES)
VALUES = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0]), st.floats(-1, 1))
TRIALS = st.lists(st.tuples(STATES, VALUES), max_size=25)
MODES = st.sampled_from(["min", "max"])


def make_trials(given_trials: list) -> list[TrialRecord]:
    return [
        TrialRecord(number, {}, {}, state=state, curve={} if value is None else {1: {"m": value}})
        for number, (state, value) in enumerate(given_trials)
    ]


@given(trials=TRIALS, n=st.integers(1, 4), mode=MODES, order=st.randoms(use_true_random=False))
def test_the_best_are_those_that_ranking_all_finds(trials, n, mode, order):
    ended = make_trials(trials)
    order.shuffle(ended)
    best, dropped = Best(n, "m", mode), []
    for count, trial in enumerate(ended, start=1):
        out = best.add(trial)
        dropped += [] if out is None else [out.number]
        so_far = {trial.number: trial for trial in ended[:count]}
        assert best.trials == ranked(so_far, "m", mode)[:n]
    kept = [trial.number for trial in best.trials]
    assert sorted(kept + dropped) == sorted(trial.number for trial in ended)


@given(
    events=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([*ENDED_STATES, "interrupted", "started"])),
        max_size=40,
    )
)
def test_states_are_counted_as_they_change(events):
    history = SweepHistory()
    for number, what in events:
        if what == "started" or number not in history.trials:
            history.apply(
                {"event": "trial_started", "trial": number, "point": {}, "config": {}, "time": 0}
            )
        else:
            event = {"event": "trial_ended", "trial": number, "state": what}
            history.apply({**event, "error": None, "time": 0})
        states = Counter(trial.state for trial in history.trials.values())
        assert +history.n_in_state == states


def test_a_keeper_deletes_what_is_not_among_the_best(tmp_path):
    keeper = CheckpointKeeper(tmp_path, 2, "m", "max")
    assert keeper.save_beyond() is None
    trials = make_trials(
        [("completed", 0.5), ("failed", 0.9), ("pruned", 0.7), ("completed", 0.6), ("pruned", None)]
    )
    bounds = []
    for trial in trials:
        for name in (BEST, LAST):
            (trial_folder(tmp_path, trial.number) / name).mkdir(parents=True)
        keeper.ended(trial)
        bounds.append(keeper.save_beyond())
    keeper.close()
    assert bounds == [None, None, 0.5, 0.6, 0.6]
    left = {
        (trial.number, folder.name)
        for trial in trials
        for folder in trial_folder(tmp_path, trial.number).iterdir()
    }
    assert left == {(2, BEST), (3, BEST)}
