"""How soon a search finds good configurations, against its peers, on tabulated learning curves.

    uv run python benchmarks/search.py [--table FILE]… [--workers 1 4 16 64] [--seeds 20]
        [--peers NAME…] [--searcher FILE]… [--json FILE] [--picture FILE]

Searches are replayed in simulated time (search_simulator.py) on tables of real learning curves
(benchmarks/tables, or others: curve_tables.py documents the format, and that of a Python file that
stands in for one). The budget is as many epochs as 30 full trainings have; random_twice gets twice
that, and its shares are of its own.

Regret is the distance of the best value seen so far, of any epoch, from the best in the table,
divided by the distance of the median configuration: 0 is the best, 1 the median. Time is simulated:
1 is the time in which all workers, always busy, would spend the budget on epochs of mean length.

Thaw's own search is searched for in search_thaw.py beside this file; ``--searcher`` adds others:
Python files that define ``make`` as search_simulator.MakeSearcher has it. Peers' runs that ``--json
FILE`` already has are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from curve_tables import TableError
from search_dehb import why_missing
from search_peers import PEERS
from search_report import OURS, Comparison, draw, goal_table, regret_table, summary_table
from search_runs import Run, RunFile, execute_all, find_surrogate, list_runs, searcher_name
from search_simulator import FULL_TRAININGS, Trajectory

_FOLDER = Path(__file__).parent
_OWN_SEARCHER = _FOLDER / "search_thaw.py"
_DEFAULT_PEERS = ("random", "random_twice", "ray_optuna_asha", "optuna_hyperband", "dehb")


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    tables = [str(path) for path in arguments.table or sorted((_FOLDER / "tables").glob("*.npz"))]
    if not tables:
        parser.error("--table: none given, and benchmarks/tables has none")
    try:
        for table in tables:
            find_surrogate(table)
    except TableError as error:
        parser.error(f"--table: {error}")
    own = [_OWN_SEARCHER] if _OWN_SEARCHER.is_file() else []
    searchers = [*map(str, [*own, *arguments.searcher]), *_available(arguments.peers)]
    runs = list_runs(
        tables, searchers, arguments.workers, arguments.seeds, arguments.full_trainings
    )
    file = RunFile(arguments.json)
    results = dict(execute_all(runs, arguments.processes, file))
    comparisons = gather(runs, results)
    for comparison in comparisons:
        print(regret_table(comparison), end="\n\n")
    print("### All tables and workers: the mean of the medians", summary_table(comparisons),
          sep="\n\n", end="\n\n")  # fmt: skip
    if arguments.goals_of in comparisons[0].runs:
        print(f"### Goals of {arguments.goals_of}", goal_table(comparisons, arguments.goals_of),
              sep="\n\n")  # fmt: skip
    if arguments.picture is not None:
        draw(comparisons, arguments.picture, "epochs")
        time = arguments.picture.with_stem(f"{arguments.picture.stem}_time")
        draw(comparisons, time, "seconds")


def gather(runs: list[Run], results: dict[Run, Trajectory]) -> list[Comparison]:
    """The results by table and number of workers; searchers and seeds in the order of ``runs``."""
    comparisons: dict[tuple[str, int], Comparison] = {}
    for run in runs:
        name = find_surrogate(run.table).name
        comparison = comparisons.setdefault(
            (run.table, run.n_workers), Comparison(name, run.n_workers)
        )
        comparison.runs.setdefault(run.name, []).append(results[run])
    return list(comparisons.values())


def _available(peers: list[str]) -> list[str]:
    reason = why_missing()
    if "dehb" in peers and reason:
        print(f"warning: without dehb, which {reason}", file=sys.stderr)
        return [name for name in peers if name != "dehb"]
    return peers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", type=Path, action="append", metavar="FILE", help=".npz or .py")
    parser.add_argument("--workers", type=_positive, nargs="+", default=[1, 4, 16, 64], metavar="N")
    parser.add_argument("--seeds", type=_positive, default=20, metavar="N")
    parser.add_argument("--full-trainings", type=_positive, default=FULL_TRAININGS, metavar="N",
                        help="the budget, in full trainings")  # fmt: skip
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(_DEFAULT_PEERS),
                        metavar="NAME", help=f"of {', '.join(PEERS)}")  # fmt: skip
    parser.add_argument("--searcher", type=_python_file, action="append", default=[],
                        metavar="FILE", help="a Python file that defines make")  # fmt: skip
    parser.add_argument("--goals-of", default=OURS, metavar="NAME",
                        help="the searcher that is held against the goals")  # fmt: skip
    parser.add_argument("--processes", type=_positive, default=2, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the runs")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="such as search.png")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


def _python_file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text}: there is no such file")
    if searcher_name(text) in PEERS:
        raise argparse.ArgumentTypeError(f"{text}: a peer has that name")
    return path


if __name__ == "__main__":
    main()
