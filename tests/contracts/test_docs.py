"""The commands of the documents: each resolves and is checked, on small data made for it."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
from examples import EXAMPLES
from PIL import Image
from small_tokenizers import save_causal

from trainables.tasks.table import TASKS

PAGES = Path(__file__).parents[2] / "docs" / "tasks"
_COMMAND = re.compile(r"^thaw (?:.*\\\n)*.*$", re.MULTILINE)


def commands(task: str) -> list[list[str]]:
    """The command lines in the blocks of a task's page."""
    page = (PAGES / f"{task}.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    found = [match for block in blocks for match in _COMMAND.findall(block)]
    return [shlex.split(command.replace("\\\n", " ")) for command in found]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data and models that the pages speak of."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("sentences", "books", "flowers/rose", "flowers/tulip"):
        (folder / name).mkdir(parents=True)
    numbers = range(40)
    for split in ("train", "dev", "test"):
        sentences = (f"Ada B-person\nsaw O\n{split}{n} O\nRome B-place\n\n" for n in numbers)
        (folder / "sentences" / f"{split}.conll").write_text("".join(sentences))
    lines = [f"once upon a time there were {n} kings" for n in range(200)]
    (folder / "books" / "one.txt").write_text("\n".join(lines))
    stories = [json.dumps({"story": line}) for line in lines]
    (folder / "stories.jsonl").write_text("\n".join(stories))
    tables = {
        "reviews": ("text,stars", [f"film {n},{n % 5}" for n in numbers]),
        "questions": ("text,category", [f"question {n},{'ab'[n % 2]}" for n in numbers]),
        "cells": ("file,n_cells", [f"flowers/rose/{n}.png,{n % 7}" for n in numbers]),
    }
    for name, (header, rows) in tables.items():
        (folder / f"{name}.csv").write_text("\n".join([header, *rows]))
    for number in numbers:
        for kind in ("rose", "tulip"):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(
                folder / "flowers" / kind / f"{number}.png"
            )
    save_causal("gpt2", folder / "MODEL")
    # As long as the spaces' texts may be.
    about = folder / "MODEL" / "config.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "n_positions": 256}))
    return folder


def test_every_task_has_a_page_of_its_own() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == set(TASKS) == set(EXAMPLES)
    for task in TASKS:
        assert len((PAGES / f"{task}.md").read_text().splitlines()) <= 40


@pytest.mark.parametrize("task", sorted(TASKS))
def test_commands_work_as_printed(
    task: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from tuning.command_line.cli import main

    monkeypatch.chdir(place)
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer sets its own
    sweeps = [command for command in commands(task) if command[1] == "sweep"]
    assert len(sweeps) >= 2
    for command in sweeps:
        monkeypatch.setattr(sys, "argv", [*command, "--engine", "inprocess", "--dry-run", "--json"])
        handler, code = signal.getsignal(signal.SIGTERM), None
        try:
            main()
        except SystemExit as error:
            code = error.code
        finally:
            signal.signal(signal.SIGTERM, handler)
        said = capfd.readouterr()
        assert not code, (command, said.err)
        assert len(json.loads(said.out)["samples"]) == 5
    (asked,) = (command for command in commands(task) if command[1] == "predict")
    assert asked[2] == "models:/NAME@champion"


@pytest.mark.parametrize("task", sorted(TASKS))
def test_settings_and_metrics_that_a_page_names_are_there(task: str) -> None:
    page = (PAGES / f"{task}.md").read_text()
    table = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    settings = set(re.findall(r"`(\w+)`", " ".join(table)))
    assert len(settings) >= 3
    assert settings <= set(TASKS[task].config_type.model_fields)
    named = set(re.findall(r"`(val_\w+)`", page)) - {"val_f1_TYPE"}
    assert named | {"val_loss"} == set(TASKS[task].config_type.METRICS)
