"""A search space: named domains with conditions between them, fixed settings, starting points."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from search_spaces.domains.kinds import (
    Choice,
    Condition,
    Domain,
    Float,
    Int,
    Scalar,
    SpaceError,
    as_tuple,
    domain_from_json,
    domain_to_json,
    same,
)


@dataclass(frozen=True)
class SearchSpace:
    """The domains to search, plus fixed settings and starting points, for one task.

    Args:
        name: also the MLflow experiment's; letters, digits, - and _.
        task: a built-in task's name, or None where the file that holds the space defines ``train``.
        domains: setting -> domain; a condition names settings that come earlier.
        fixed: settings that are not searched.
        starting_points: configurations known to be good, tried first; settings that they leave out
            are sampled.

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
            for value in as_tuple(wanted):
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
            parent in settings and any(same(settings[parent], value) for value in as_tuple(wanted))
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
        """A random point: one value for each active domain."""
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

        They check a whole space before anything starts: if all of them are valid, so is what lies
        between them.
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
                chosen |= {**self._enabling(parent), parent: as_tuple(wanted)[0]}
        return chosen

    def override(self, settings: Mapping[str, Scalar]) -> SearchSpace:
        """This space with ``settings`` fixed: they are searched no longer.

        A conditional domain that is fixed becomes a choice of that one value under the same
        condition, so that it is still left out where it does not apply. Domains that can no longer
        apply are dropped. Starting points lose the settings that are fixed.
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
        distinct = [each for number, each in enumerate(points) if each not in points[:number]]
        return replace(self, domains=domains, fixed=fixed, starting_points=distinct)

    def to_json(self) -> dict[str, Any]:
        """As plain dictionaries, lists and scalars."""
        return {
            "name": self.name,
            "task": self.task,
            "description": self.description,
            "domains": {name: domain_to_json(domain) for name, domain in self.domains.items()},
            "fixed": dict(self.fixed),
            "starting_points": [dict(point) for point in self.starting_points],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SearchSpace:
        """The space that ``to_json`` wrote."""
        domains = {name: domain_from_json(domain) for name, domain in values["domains"].items()}
        return cls(**{**values, "domains": domains})


def _reachable(
    domain: Domain, domains: Mapping[str, Domain], fixed: Mapping[str, Scalar]
) -> Condition | None:
    """The part of a domain's condition that can still be met; None if it can not be met at all."""
    reachable: dict[str, Scalar | tuple[Scalar, ...]] = {}
    for parent, wanted in (domain.when or {}).items():
        if parent in domains:
            met = [value for value in as_tuple(wanted) if domains[parent].contains(value)]
        else:
            met = [v for v in as_tuple(wanted) if parent in fixed and same(fixed[parent], v)]
        if not met:
            return None
        reachable[parent] = tuple(met) if len(met) > 1 else met[0]
    return reachable


def _with_condition(domain: Domain, when: Condition) -> Domain:
    if isinstance(domain, Choice):
        return Choice(*domain.options, when=when or None)
    return replace(domain, when=when or None)
