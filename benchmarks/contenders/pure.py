"""The training alone, one after another in one warm process: what no contender can beat.

python pure.py '{"config": {...}, "trials": 5}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from digits_training import SPACE, train

from trainables.task import TrainingRun


def main() -> None:
    told = json.loads(sys.argv[1])
    config = {**SPACE.configuration(SPACE.starting_points[0]), **told["config"]}
    for _ in range(told["trials"]):
        list(train(config, TrainingRun(cache_folder=Path())))


if __name__ == "__main__":
    main()
