"""Thaw from Python: the calls do what the commands do, raise what is wrong, and print nothing."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, TOY_SPACE

import tuning
from tuning.record.options import OPTIONS, RESUMABLE

TOY = {"engine": "inprocess", "metric": "value:max", "name": "toy", "scheduler": "none"}


def test_importing_it_imports_nothing_else():
    listing = "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    code = f"import sys; before = set(sys.modules); import tuning; {listing}"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert set(result.stdout.split()) - set(sys.stdlib_module_names) == {"tuning"}
    with pytest.raises(AttributeError, match="'tuning' has no attribute 'sweeep'"):
        tuning.sweeep  # noqa: B018


def test_the_calls_show_every_option():
    for call, names in ((tuning.sweep, OPTIONS), (tuning.resume, RESUMABLE)):
        assert set(names) <= set(inspect.signature(call).parameters)
        assert all(re.search(rf"^ +{name}: [A-Z]", call.__doc__, re.MULTILINE) for name in names)
        assert "{options}" not in call.__doc__


def test_from_a_sweep_to_its_best(workplace, thaw, capfd):
    found = tuning.sweep(TOY_SPACE, trials=4, settings={"kind": "plain"}, **TOY)
    assert capfd.readouterr() == ("", "")
    assert found.name == "toy"
    assert found.best["config"]["kind"] == "plain"
    again = tuning.open_sweep("toy")
    assert again.best == found.best == json.loads(thaw("best", "toy", "--json")[1])
    assert again.summary["trials"]["completed"] == 4
    rows = again.trials()
    assert list(rows["trial"]) == [0, 1, 2, 3]
    assert rows["value"].max() == found.best["value"]
    more = tuning.resume("toy", trials=5)
    assert len(more.trials()) == 5
    assert capfd.readouterr() == ("", "")


def test_what_is_shown_goes_to_stderr(workplace, capfd):
    tuning.sweep(TOY_SPACE, trials=1, show=True, **TOY)
    out, err = capfd.readouterr()
    assert out == ""
    assert "trial 0 completed" in err


def test_the_folder_of_sweeps_is_that_of_the_command_line(workplace, monkeypatch):
    monkeypatch.setenv("THAW_SWEEPS_FOLDER", "elsewhere")
    tuning.sweep(TOY_SPACE, trials=1, **TOY)
    assert tuning.open_sweep("toy").description.folder == workplace / "elsewhere" / "toy"


def test_what_is_wrong_is_raised(workplace):
    with pytest.raises(tuning.InputError, match="--trials = 0: must be at least 1"):
        tuning.sweep(TOY_SPACE, trials=0, **TOY)
    with pytest.raises(tuning.InputError, match="unknown sweep 'toy'"):
        tuning.open_sweep("toy")
    assert not Path("sweeps").exists()
    broken = {"fault": "raise", "fault_beyond": -1}
    with pytest.raises(tuning.RunFailed, match="sweep toy ended because"):
        tuning.sweep(TOY_SPACE, trials=2, settings=broken, **TOY)
    assert set(tuning.open_sweep("toy").trials()["state"]) == {"failed"}
    with pytest.raises(tuning.InputError, match="unknown option of resume 'trial'; valid: trials"):
        tuning.resume("toy", trial=3)


def example() -> str:
    """The first block of Python in the documentation that uses the interface."""
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL):
            if "import tuning" in block:
                return block
    raise AssertionError("no example")


# A network that trains in seconds
TINY = {"model": "squeezenet1_1", "image_size": 32, "stem": "standard", "epochs": 1}
TINY |= {"batch_size": 128, "freezing": "head"}


def test_the_example_of_the_documentation_runs(workplace, capfd):
    from PIL import Image

    Image.new("L", (8, 8), 30).save("digit.png")
    program = example()
    for slow, quick in (
        ("trials=8", 'trials=1, engine="inprocess"'),
        ('{"epochs": 3}', f"dict({', '.join(f'{n}={v!r}' for n, v in TINY.items())})"),
    ):
        assert slow in program
        program = program.replace(slow, quick)
    exec(compile(program, "example", "exec"), {})
    out, _ = capfd.readouterr()
    assert "val_accuracy" in out
    assert "digit.png" in out
