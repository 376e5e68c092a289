"""What may be searched, as immutable values that check themselves. All bounds are inclusive.

    learning_rate = Float(1e-4, 1e-1, log=True)
    freezing = Choice("none", "head", "first_k")
    frozen_blocks = Int(1, 4, when={"freezing": "first_k"})

Standard library only: conversion to any library's own distributions lives in
``tuning/search/optuna_trials.py``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Scalar = str | int | float | bool | None
Condition = Mapping[str, Scalar | tuple[Scalar, ...]]


class SpaceError(ValueError):
    """A domain or a search space contradicts itself."""


@dataclass(frozen=True)
class Float:
    """Real numbers from ``low`` to ``high``: uniform, log-uniform, or low, low + step …"""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: Condition | None = None

    def __post_init__(self) -> None:
        _check_bounds(self, (int, float))
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    def contains(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return self.low <= value <= self.high and _on_grid(value, self.low, self.step)

    def sample(self, generator: random.Random) -> float:
        if self.step is not None:
            return self.after(generator.randint(0, _n_steps(self)))
        if self.log:
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
            return min(max(value, self.low), self.high)
        return generator.uniform(self.low, self.high)

    def after(self, n_steps: int) -> float:
        """The value ``n_steps`` steps above ``low``, never above ``high`` by rounding."""
        return min(self.low + (self.step or 0.0) * n_steps, self.high)

    def grid(self, n_points: int = 3) -> tuple[float, ...]:
        """At most ``n_points`` values, low to high, evenly spaced (in the logarithm for log)."""
        if self.step is not None:
            return tuple(self.after(i) for i in _spread(_n_steps(self), n_points))
        shares = [i / (n_points - 1) for i in range(n_points)] if n_points > 1 else [0.5]
        if self.log:
            ratio = self.high / self.low
            inner = [self.low * ratio**share for share in shares]
        else:
            inner = [self.low + (self.high - self.low) * share for share in shares]
        return tuple(dict.fromkeys(min(max(value, self.low), self.high) for value in inner))

    def describe(self) -> str:
        return _describe_bounds(self)


@dataclass(frozen=True)
class Int:
    """Whole numbers from ``low`` to ``high``: uniform, log-uniform, or low, low + step …"""

    low: int
    high: int
    log: bool = False
    step: int | None = None
    when: Condition | None = None

    def __post_init__(self) -> None:
        _check_bounds(self, (int,))

    def contains(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.low <= value <= self.high and (value - self.low) % (self.step or 1) == 0

    def sample(self, generator: random.Random) -> int:
        if self.log:
            # Half a unit beyond each bound: the bounds are then as likely as their neighbours.
            value = generator.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5))
            return min(max(round(math.exp(value)), self.low), self.high)
        return self.low + (self.step or 1) * generator.randint(0, _n_steps(self))

    def grid(self, n_points: int = 3) -> tuple[int, ...]:
        """At most ``n_points`` values, low to high, evenly spaced (in the logarithm for log)."""
        if self.log:
            ends = Float(self.low, self.high, log=True).grid(n_points)
            return tuple(dict.fromkeys(round(value) for value in ends))
        return tuple(self.low + (self.step or 1) * i for i in _spread(_n_steps(self), n_points))

    def describe(self) -> str:
        return _describe_bounds(self)


@dataclass(frozen=True, init=False)
class Choice:
    """One of a few named values, without an order."""

    options: tuple[Scalar, ...]
    when: Condition | None = None

    def __init__(self, *options: Scalar, when: Condition | None = None) -> None:
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "when", when)
        if len(options) < 1:
            raise SpaceError("Choice(): needs at least one option")
        for option in options:
            if not isinstance(option, (str, int, float, bool, type(None))):
                raise SpaceError(
                    f"Choice: option {option!r} is a {type(option).__name__}; "
                    "valid: text, numbers, True, False, None"
                )
        if len({(type(option), option) for option in options}) < len(options):
            raise SpaceError(f"Choice{options!r}: an option occurs twice")
        _check_when(self)

    def contains(self, value: Any) -> bool:
        return any(same(value, option) for option in self.options)

    def sample(self, generator: random.Random) -> Scalar:
        return generator.choice(self.options)

    def grid(self, n_points: int = 0) -> tuple[Scalar, ...]:
        """Every option; ``n_points`` does not matter."""
        return self.options

    def describe(self) -> str:
        return ", ".join(str(option) for option in self.options)


Domain = Float | Int | Choice


def domain_to_json(domain: Domain) -> dict[str, Any]:
    """A domain as plain values, for ``domain_from_json``."""
    values = {name: getattr(domain, name) for name in domain.__dataclass_fields__}
    kind = type(domain).__name__
    return {"kind": kind, **{name: value for name, value in values.items() if value is not None}}


def domain_from_json(values: Mapping[str, Any]) -> Domain:
    """The domain that ``domain_to_json`` wrote."""
    arguments = dict(values)
    kind = arguments.pop("kind")
    if kind == "Choice":
        return Choice(*arguments.pop("options"), **arguments)
    return Float(**arguments) if kind == "Float" else Int(**arguments)


def _check_bounds(domain: Float | Int, kinds: tuple[type, ...]) -> None:
    kind = type(domain).__name__
    label = f"{kind}({domain.low!r}, {domain.high!r})"
    bounds = {"low": domain.low, "high": domain.high}
    if domain.step is not None:
        bounds["step"] = domain.step
    for name, value in bounds.items():
        if isinstance(value, bool) or not isinstance(value, kinds):
            wanted = "a whole number" if kinds == (int,) else "a number"
            raise SpaceError(f"{label}: {name} = {value!r} must be {wanted}")
        if not math.isfinite(value):
            raise SpaceError(f"{label}: {name} = {value!r} must be finite")
    step = domain.step
    for is_wrong, rule in (
        (domain.low > domain.high, "low must not be above high"),
        (domain.log and domain.low <= 0, "low must be greater than 0 where log=True"),
        (domain.log and step is not None, "step and log=True can not be combined"),
        (step is not None and step <= 0, f"step = {step!r} must be greater than 0"),
    ):
        if is_wrong:
            raise SpaceError(f"{label}: {rule}")
    if not _on_grid(domain.high, domain.low, step):
        raise SpaceError(
            f"{label}: high is not reached from low in steps of {step!r}, "
            "so it would never be tried"
        )
    _check_when(domain)


def _check_when(domain: Domain) -> None:
    if domain.when is None:
        return
    if not isinstance(domain.when, Mapping) or not domain.when:
        raise SpaceError(
            f"{type(domain).__name__}: when = {domain.when!r} must be a dictionary "
            'such as {"freezing": "first_k"}'
        )
    # A copy of our own, with tuples for lists: what the caller does to theirs changes nothing.
    plain = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in domain.when.items()
    }
    object.__setattr__(domain, "when", plain)


def _n_steps(domain: Float | Int) -> int:
    return round((domain.high - domain.low) / (domain.step or 1))


def _on_grid(value: float, low: float, step: float | None) -> bool:
    if step is None:
        return True
    n_steps = (value - low) / step
    return math.isclose(n_steps, round(n_steps), abs_tol=1e-6)


def _spread(last: int, n_points: int) -> list[int]:
    """At most ``n_points`` whole numbers from 0 to ``last``, both included, evenly spread."""
    if n_points <= 1:
        return [last // 2]
    return list(dict.fromkeys(round(last * i / (n_points - 1)) for i in range(n_points)))


def _describe_bounds(domain: Float | Int) -> str:
    notes = ["log"] * domain.log + ([f"step {domain.step:g}"] if domain.step is not None else [])
    return f"{domain.low:g} … {domain.high:g}" + (f" ({', '.join(notes)})" if notes else "")


def as_tuple(value: Any) -> tuple[Scalar, ...]:
    """The values that a condition allows: one alone counts as a tuple of one."""
    return value if isinstance(value, tuple) else (value,)


def same(value: Any, option: Scalar) -> bool:
    """Equality that tells True from 1."""
    return isinstance(value, bool) == isinstance(option, bool) and bool(value == option)
