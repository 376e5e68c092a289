"""What a person sees while a sweep runs, on stderr: a live view in a terminal, else plain lines."""

from __future__ import annotations

import threading
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tuning.after.results import progress, searched
from tuning.record.events import ENDED_STATES, Event, SweepHistory, describe_packing
from tuning.record.ranking import Best
from tuning.record.standings import count_states
from tuning.record.sweep import Sweep

_N_SHOWN = 8  # trials in the live table; more only while more are running
_N_RUNNING_SHOWN = 24
_AT_REST = (*ENDED_STATES, "frozen")


class _Progress:
    """What both views show."""

    def begin(self, sweep: Sweep, history: SweepHistory, n_trials: int) -> None:
        self._sweep = sweep
        self._history = history
        self._n_trials = n_trials
        self._started = time.monotonic()
        self._best = Best(_N_SHOWN, sweep.metric, sweep.mode)
        for trial in history.trials.values():
            if trial.state in _AT_REST:
                self._best.add(trial)
        self._done_before = self._n_done()

    def update(self, event: Event) -> None:
        if event["event"] == "trial_ended" and event["state"] in _AT_REST:
            trial = self._history.trial(event["trial"])
            if trial.kind == "trial":
                self._best.add(trial)

    def _news(self, event: Event) -> str | None:
        """A line about an event that ends no trial; None if there is nothing to tell."""
        if event["event"] == "confirmation_planned":
            numbers = ", ".join(map(str, event["candidates"]))
            seeds = ", ".join(map(str, event["seeds"]))
            return f"confirming the best, trials {numbers}, with fresh seeds {seeds}"
        if event["event"] == "trouble":
            return str(event["message"])
        if event["event"] not in ("trial_retried", "packing", "epoch"):
            return None
        label = self._history.trial(event["trial"]).label
        if event["event"] == "trial_retried":
            return f"{label} starts again: {event['reason']}"
        if event["event"] == "packing":
            return f"{label}: {describe_packing(event)}"
        return f"{label}: {event['note']}" if event.get("note") else None

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _status(self) -> str:
        parts = progress(count_states(self._history), self._n_trials)
        if best_trials := self._best.trials:
            best = best_trials[0]
            value = best.value(self._sweep.metric, self._sweep.mode)
            parts.append(f"best {self._sweep.metric} {value:.4f} (trial {best.number})")
        left = self._seconds_left()
        if left is not None:
            parts.append(f"about {_duration(left)} left")
        return ", ".join(parts)

    def _seconds_left(self) -> float | None:
        """Estimated by the pace so far and by the time budget; None before the first trial ends."""
        by_budget = None
        if self._sweep.time_budget_seconds is not None:
            spent = self._history.spent.wall_seconds + self._elapsed()
            by_budget = max(0.0, self._sweep.time_budget_seconds - spent)
        done = self._n_done()
        if done <= self._done_before:
            return by_budget
        by_pace = self._elapsed() / (done - self._done_before) * (self._n_trials - done)
        return by_pace if by_budget is None else min(by_pace, by_budget)

    def _n_done(self) -> int:
        """Number of trials that have ended or are frozen; a frozen one seldom goes on."""
        counts = count_states(self._history)
        return sum(counts.get(state, 0) for state in _AT_REST)


class PlainView(_Progress):
    """One line for each thing that matters."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._frozen: set[int] = set()

    def say(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def update(self, event: Event) -> None:
        super().update(event)
        if event["event"] == "trial_started":
            trial = self._history.trial(event["trial"])
            chosen = " ".join(f"{name}={_short(value)}" for name, value in trial.point.items())
            begins = f"goes on after epoch {max(trial.curve)}" if trial.curve else "starts"
            self.say(f"[{self._elapsed():6.1f} s] {trial.label} {begins}: {chosen}")
            self._frozen.discard(event["trial"])
        elif event["event"] == "trial_ended":
            if event["trial"] in self._frozen:
                return  # this was told when it was frozen; now the sweep ends
            trial = self._history.trial(event["trial"])
            if event["state"] == "frozen":
                self._frozen.add(event["trial"])
            value = trial.value(self._sweep.metric, self._sweep.mode)
            result = "" if value is None else f" with {self._sweep.metric} {value:.4f}"
            n_epochs = f" after {len(trial.curve)} epochs" if trial.curve else ""
            self.say(
                f"[{self._elapsed():6.1f} s] {trial.label} {trial.state}{n_epochs}{result}; "
                + self._status()
            )
            if trial.error:
                self.say("    " + trial.error.strip().splitlines()[-1])
        elif news := self._news(event):
            self.say(news)

    def end(self) -> None:
        pass


class LiveView(_Progress):
    """A table of the running and best trials that renews itself."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._lock = threading.Lock()

    def say(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False)

    def begin(self, sweep: Sweep, history: SweepHistory, n_trials: int) -> None:
        super().begin(sweep, history, n_trials)
        self._live = Live(
            console=self._console, get_renderable=self._table, refresh_per_second=2, transient=True
        )
        self._live.start()

    def update(self, event: Event) -> None:
        super().update(event)
        if event["event"] == "trial_ended" and event["error"]:
            last_line = event["error"].strip().splitlines()[-1]
            label = self._history.trial(event["trial"]).label
            self.say(f"{label} {event['state']}: {last_line}")
        elif news := self._news(event):
            self.say(news)

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        sweep = self._sweep
        table = Table(title=f"{sweep.name}: {self._status()}", title_justify="left", expand=True)
        for heading in ("trial", "state", "epoch", sweep.metric):
            table.add_column(heading, no_wrap=True)
        table.add_column("configuration", overflow="ellipsis", ratio=1)
        history = self._history
        trials = [*list(history.trials.values()), *list(history.confirmations.values())]
        running = [trial for trial in trials if trial.state == "running"][:_N_RUNNING_SHOWN]
        for trial in running + self._best.trials[: max(0, _N_SHOWN - len(running))]:
            value = trial.value(sweep.metric, sweep.mode)
            table.add_row(
                str(trial.number) if trial.repeats is None else f"{trial.repeats} again",
                trial.state,
                str(max(list(trial.curve), default=0)),
                "" if value is None else f"{value:.4f}",
                " ".join(
                    f"{name}={_short(chosen)}"
                    for name, chosen in searched(sweep, trial.point).items()
                ),
            )
        return table


def make_view() -> PlainView | LiveView:
    """A live view where stderr is a terminal, plain lines where it is not."""
    console = Console(stderr=True)
    return LiveView(console) if console.is_terminal else PlainView(console)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
