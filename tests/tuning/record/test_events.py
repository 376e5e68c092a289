"""What the record keeps at hand as trials end equals what a look at all of them would find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from records import make_trials

from tuning.record.events import ENDED_STATES, SweepHistory
from tuning.record.ranking import Best, ranked

STATES = st.sampled_from(ENDED_STATES)
VALUES = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0]), st.floats(-1, 1))
TRIALS = st.lists(st.tuples(STATES, VALUES), max_size=25)
MODES = st.sampled_from(["min", "max"])


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


FILL = """
import json, resource, sys
from pathlib import Path
from tuning.record.events import Record, read_events
folder = Path(sys.argv[1])
record = Record(folder)
record.append("mark", text="x" * 900)
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
messages = []
record.listen(lambda event: messages.append(event.get("message")))
for number in range(4):
    record.append("mark", number=number, text="x" * 300)
full = (folder / "events.jsonl").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
record.append("mark", number=4)
record.close()
numbers = [event.get("number") for event in read_events(folder)]
print(json.dumps([full, numbers, [m for m in messages if m]]))
"""


def test_events_wait_while_the_disk_is_full_and_are_written_whole(tmp_path):
    """A limit on the size of files refuses what a full disk refuses: in the middle of a line."""
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{FILL}",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ},
    )
    assert result.returncode == 0, result.stderr
    full, numbers, messages = json.loads(result.stdout)
    assert full == 1500
    assert numbers == [None, 0, 1, None, 2, 3, 4]
    assert len(messages) == 1
    assert str(tmp_path / "events.jsonl") in messages[0]
