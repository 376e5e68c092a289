"""What may be searched, as immutable values that check themselves. All bounds are inclusive.

    learning_rate = Float(1e-4, 1e-1, log=True)
    freezing = Choice("none", "head", "first_k")
    frozen_blocks = Int(1, 4, when={"freezing": "first_k"})

Standard library only: conversion to any library's own distributions lives in
``tuning/search/convert.py``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        """The value so many steps above ``low``; rounding does not take it beyond ``high``."""
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
        return any(_same(value, option) for option in self.options)

    def sample(self, generator: random.Random) -> Scalar:
        return generator.choice(self.options)

    def grid(self, n_points: int = 0) -> tuple[Scalar, ...]:
        """Every option; ``n_points`` does not matter."""
        return self.options

    def describe(self) -> str:
        return ", ".join(str(option) for option in self.options)


Domain = Float | Int | Choice


@dataclass(frozen=True)
class SearchSpace:
    """The domains to search, plus fixed settings and starting points, for one task.

    Args:
        name: of the MLflow experiment; letters, digits, - and _.
        task: a built-in task's name, or None where the file that holds the space defines ``train``.
        domains: setting -> domain, in an order in which every condition names an earlier one.
        fixed: settings that are not searched.
        starting_points: configurations known to be good, tried first; what is left out is sampled.

    Raises:
        SpaceError: the space contradicts itself.
    """

    name: str
    domains: Mapping[str, Domain]
    task: str | None = None
    description: str = ""
    fixed: Mapping[str, Scalar] = field(default_factory=dict)
    starting_points: Sequence[Mapping[str, Scalar]] = ()

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum():
            raise SpaceError(
                f"name = {self.name!r}: must be letters, digits, - and _, at least one"
            )
        if not self.domains:
            raise SpaceError(
                f"search space {self.name}: has no domains, so there is nothing to search"
            )
        both = sorted(set(self.domains) & set(self.fixed))
        if both:
            raise SpaceError(f"search space {self.name}: {', '.join(both)} both searched and fixed")
        known = dict.fromkeys(self.fixed)
        for name, domain in self.domains.items():
            if not isinstance(domain, (Float, Int, Choice)):
                raise SpaceError(
                    f"domain {name}: is a {type(domain).__name__}; valid: Float, Int, Choice"
                )
            self._check_condition(name, domain, known)
            known[name] = None
        for number, point in enumerate(self.starting_points, start=1):
            self._check_point(f"starting point {number}", point)

    def _check_condition(self, name: str, domain: Domain, known: Mapping[str, None]) -> None:
        for parent, wanted in (domain.when or {}).items():
            if parent not in known:
                later = (
                    "comes later in the space" if parent in self.domains else "is not in the space"
                )
                raise SpaceError(
                    f"domain {name}: its condition names {parent!r}, which {later}; "
                    f"valid: {', '.join(known) or 'none (it is the first)'}"
                )
            for value in _as_tuple(wanted):
                if parent in self.domains and not self.domains[parent].contains(value):
                    raise SpaceError(
                        f"domain {name}: its condition {parent} = {value!r} can not be met; "
                        f"{parent} is one of {self.domains[parent].describe()}"
                    )

    def _check_point(self, label: str, point: Mapping[str, Scalar]) -> None:
        for name, value in point.items():
            if name not in self.domains:
                raise SpaceError(
                    f"{label}: {name!r} is not a domain of search space {self.name}; "
                    f"valid: {', '.join(self.domains)}"
                )
            if not self.domains[name].contains(value):
                raise SpaceError(
                    f"{label}: {name} = {value!r} is outside its domain; "
                    f"valid: {self.domains[name].describe()}"
                )

    def is_active(self, name: str, chosen: Mapping[str, Any]) -> bool:
        """Whether domain ``name`` applies, given what was chosen for the domains before it."""
        settings = {**self.fixed, **chosen}
        return all(
            parent in settings
            and any(_same(settings[parent], value) for value in _as_tuple(wanted))
            for parent, wanted in (self.domains[name].when or {}).items()
        )

    def complete(self, point: Mapping[str, Any], generator: random.Random) -> dict[str, Any]:
        """``point`` with active domains that it leaves out sampled, and inactive ones dropped."""
        chosen: dict[str, Any] = {}
        for name, domain in self.domains.items():
            if self.is_active(name, chosen):
                chosen[name] = point[name] if name in point else domain.sample(generator)
        return chosen

    def sample(self, generator: random.Random) -> dict[str, Any]:
        """One value for each active domain."""
        return self.complete({}, generator)

    def configuration(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """``point`` together with the fixed settings."""
        return {**self.fixed, **point}

    def grid(self, n_points: int = 3) -> Iterator[dict[str, Any]]:
        """Every combination of the domains' grids, each combination of active values once."""

        def extend(chosen: dict[str, Any], names: list[str]) -> Iterator[dict[str, Any]]:
            if not names:
                yield chosen
                return
            name, rest = names[0], names[1:]
            if not self.is_active(name, chosen):
                yield from extend(chosen, rest)
                return
            for value in self.domains[name].grid(n_points):
                yield from extend({**chosen, name: value}, rest)

        return extend({}, list(self.domains))

    def corners(self) -> Iterator[dict[str, Any]]:
        """Configurations that between them reach every option and both bounds of every domain.

        Used to check a whole space before anything starts: what is valid here is valid in between.
        """
        generator = random.Random(0)
        for name, domain in self.domains.items():
            for value in domain.grid(2):
                yield self.complete({**self._enabling(name), name: value}, generator)

    def _enabling(self, name: str) -> dict[str, Any]:
        """Choices under which domain ``name`` is active."""
        chosen: dict[str, Any] = {}
        for parent, wanted in (self.domains[name].when or {}).items():
            if parent in self.domains:
                chosen |= {**self._enabling(parent), parent: _as_tuple(wanted)[0]}
        return chosen

    def override(self, settings: Mapping[str, Scalar]) -> SearchSpace:
        """This space with ``settings`` fixed: they are searched no longer.

        A conditional domain keeps its condition, with its value as the only option, so that it is
        still not set where it does not apply. What can no longer apply is dropped. Starting points
        lose what is fixed.
        """
        fixed = {**self.fixed, **settings}
        domains: dict[str, Domain] = {}
        for name, domain in self.domains.items():
            reachable = _reachable(domain, domains, fixed)
            if reachable is not None and name not in settings:
                domains[name] = _with_condition(domain, reachable)
            elif reachable and domain.when is not None:
                domains[name] = Choice(settings[name], when=reachable)
                del fixed[name]
        points = [
            {n: v for n, v in point.items() if n in domains and n not in settings}
            for point in self.starting_points
        ]
        return SearchSpace(
            name=self.name,
            task=self.task,
            description=self.description,
            domains=domains,
            fixed=fixed,
            starting_points=[
                point for number, point in enumerate(points) if point not in points[:number]
            ],
        )

    def to_json(self) -> dict[str, Any]:
        """As plain dictionaries, lists and scalars."""
        return {
            "name": self.name,
            "task": self.task,
            "description": self.description,
            "domains": {name: _domain_to_json(domain) for name, domain in self.domains.items()},
            "fixed": dict(self.fixed),
            "starting_points": [dict(point) for point in self.starting_points],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SearchSpace:
        """The space that ``to_json`` wrote."""
        domains = {name: _domain_from_json(domain) for name, domain in values["domains"].items()}
        return cls(**{**values, "domains": domains})


def _domain_to_json(domain: Domain) -> dict[str, Any]:
    values = {name: getattr(domain, name) for name in domain.__dataclass_fields__}
    kind = type(domain).__name__
    return {"kind": kind, **{name: value for name, value in values.items() if value is not None}}


def _domain_from_json(values: Mapping[str, Any]) -> Domain:
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
    if domain.low > domain.high:
        raise SpaceError(f"{label}: low must not be above high")
    if domain.log and domain.low <= 0:
        raise SpaceError(f"{label}: low must be greater than 0 where log=True")
    if domain.step is not None:
        if domain.log:
            raise SpaceError(f"{label}: step and log=True can not be combined")
        if domain.step <= 0:
            raise SpaceError(f"{label}: step = {domain.step!r} must be greater than 0")
        if not _on_grid(domain.high, domain.low, domain.step):
            raise SpaceError(
                f"{label}: high is not reached from low in steps of {domain.step!r}, "
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
    # Plain and immutable in effect: a private copy with tuples for lists.
    plain = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in domain.when.items()
    }
    object.__setattr__(domain, "when", plain)


def _reachable(
    domain: Domain, domains: Mapping[str, Domain], fixed: Mapping[str, Scalar]
) -> Condition | None:
    """The part of a domain's condition that can still be met; None if it can not be met at all."""
    reachable: dict[str, Scalar | tuple[Scalar, ...]] = {}
    for parent, wanted in (domain.when or {}).items():
        if parent in domains:
            met = [value for value in _as_tuple(wanted) if domains[parent].contains(value)]
        else:
            met = [v for v in _as_tuple(wanted) if parent in fixed and _same(fixed[parent], v)]
        if not met:
            return None
        reachable[parent] = tuple(met) if len(met) > 1 else met[0]
    return reachable


def _with_condition(domain: Domain, when: Condition) -> Domain:
    if isinstance(domain, Choice):
        return Choice(*domain.options, when=when or None)
    return replace(domain, when=when or None)


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


def _as_tuple(value: Any) -> tuple[Scalar, ...]:
    return value if isinstance(value, tuple) else (value,)


def _same(value: Any, option: Scalar) -> bool:
    """Equality that tells True from 1."""
    return isinstance(value, bool) == isinstance(option, bool) and bool(value == option)
