"""What is printed of search spaces, tasks, and of a sweep before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces.domains import SearchSpace
from tuning.command_line.printing import make_table, print_all, settings_table, show
from tuning.record.options import KEPT_NAMES
from tuning.record.sweep import Sweep


def spaces_table(found: Sequence[SearchSpace]) -> None:
    """The built-in spaces."""
    table = make_table("search spaces", "name", "task", "what it searches")
    for space in found:
        table.add_row(space.name, space.task or "–", space.description)
    print_all(
        table, "thaw spaces NAME shows one; thaw sweep also takes a path to a file of your own"
    )


def space_table(space: SearchSpace) -> None:
    """A space's domains, fixed settings and starting points."""
    table = make_table(f"{space.name}: {space.description}", "setting", "domain", "only when")
    for name, domain in space.domains.items():
        condition = ", ".join(
            f"{parent} is {' or '.join(map(str, wanted)) if isinstance(wanted, tuple) else wanted}"
            for parent, wanted in (domain.when or {}).items()
        )
        table.add_row(name, f"{type(domain).__name__} {domain.describe()}", condition)
    print_all(table, settings_table("fixed", space.fixed))
    for number, point in enumerate(space.starting_points, start=1):
        print_all(
            f"starting point {number}: "
            + ", ".join(f"{name}={show(value)}" for name, value in point.items())
        )


def tasks_table() -> None:
    """The tasks, and the settings of each."""
    from trainables.setting_types import readable_types
    from trainables.tasks.table import TASKS

    for name, row in TASKS.items():
        table = make_table(f"{name}: {row.summary}", "setting", "default", "type", "meaning")
        types = readable_types(row.config_type)
        for setting, field in row.config_type.model_fields.items():
            default = "required" if field.is_required() else str(field.default).lower()
            table.add_row(setting, default, types[setting], field.description)
        print_all(table)


def dry_run_tables(
    sweep: Sweep, notes: Sequence[str], samples: Sequence[Mapping[str, Any]]
) -> None:
    """What would be run, on which data, and five configurations as the sweep might try them."""
    names = ("name", "task", "metric", "mode", *KEPT_NAMES, "cache_folder")
    shown = {name: getattr(sweep, name) for name in names}
    print_all(settings_table("sweep (nothing was started)", {**shown, "folder": sweep.place}))
    if sweep.warm_start:
        print_all(sweep.warm_start["note"])
    space_table(sweep.space)
    print_all(*notes, *([""] if notes else []))
    table = make_table("five configurations", "setting", *map(str, range(1, len(samples) + 1)))
    for name in sweep.space.domains:
        table.add_row(name, *(show(values.get(name)) for values in samples))
    print_all(table)
