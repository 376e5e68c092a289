"""The command line where all is well: what it prints, and that JSON is alone on stdout."""

from __future__ import annotations

import csv
import io
import json

from helpers import TOY_SPACE

SWEEP = ("sweep", TOY_SPACE, "--engine", "inprocess", "--metric", "value:max", "--name", "toy")


def test_from_a_sweep_to_its_best(thaw):
    code, out, err = thaw(*SWEEP, "--trials", "5", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["sweep"] == "toy"
    assert sum(document["trials"].values()) == 5
    assert "trial 0 completed after 4 epochs with value 0.9000; 1/5 trials done" in err

    code, out, _ = thaw("best", "toy", "--json")
    assert (code, json.loads(out)) == (0, document["best"])

    code, out, _ = thaw("trials", "toy", "--json")
    assert [row["trial"] for row in json.loads(out)] == list(range(5))
    code, out, _ = thaw("trials", "toy", "--csv")
    assert len(list(csv.DictReader(io.StringIO(out)))) == 5
    code, out, _ = thaw("trials", "toy")
    assert "completed" in out
    code, out, _ = thaw("best", "toy")
    assert f"trial {document['best']['trial']}: value" in out


def test_the_end_of_a_sweep_says_what_to_type_next(thaw):
    code, out, _ = thaw(*SWEEP, "--trials", "2")
    assert code == 0
    for part in ("best: trial", "sweeps/toy", "mlflow.db", "thaw retrain toy --seeds 3", "thaw ui"):
        assert part in out


def test_a_sweep_in_which_nothing_works_ends_with_1(thaw):
    settings = ("--set", "fault=raise", "--set", "fault_beyond=-1", "--scheduler", "none")
    code, out, err = thaw(*SWEEP, *settings, "--trials", "2", "--json", "--max-failures", "0")
    assert code == 1
    assert json.loads(out)["trials"]["failed"] == 1
    assert "something broke in epoch 2" in err


def test_a_dry_run_reads_the_data_and_starts_nothing(thaw, workplace):
    code, out, _ = thaw("sweep", "digits", "--dry-run")
    assert code == 0
    assert "five configurations" in out
    assert "digits: 1259 train, 269 val, 269 test; 10 classes" in out
    code, out, _ = thaw("sweep", "digits", "--dry-run", "--json", "--set", "epochs=3")
    document = json.loads(out)
    assert len(document["samples"]) == 5
    assert document["data"] == ["digits: 1259 train, 269 val, 269 test; 10 classes"]
    assert all(values["epochs"] == 3 for values in document["samples"])
    assert not (workplace / "sweeps").exists()


def test_gpus_are_a_number_or_auto(thaw):
    command = ("sweep", TOY_SPACE, "--metric", "value:max", "--dry-run", "--json")
    for text, value in (("auto", "auto"), ("0", 0.0)):
        code, out, err = thaw(*command, "--gpus-per-trial", text)
        assert (code, json.loads(out)["sweep"]["gpus_per_trial"]) == (0, value), err
    _, out, _ = thaw(*command[:-1], "--gpus-per-trial", "auto")
    assert "gpus_per_trial" in out


def test_spaces_and_tasks_describe_themselves(thaw):
    code, out, _ = thaw("spaces")
    assert code == 0
    assert all(name in out for name in ("digits", "mnist", "image_folder", "text_csv"))
    code, out, _ = thaw("spaces", "digits")
    assert "freezing is first_k" in out
    code, out, _ = thaw("spaces", "digits", "--json")
    assert json.loads(out)["domains"]["learning_rate"]["log"] is True
    code, out, _ = thaw("tasks")
    assert "text_classification" in out
    assert "layer_decay" in out


def test_two_objects_can_not_be_asked_for_at_once(thaw):
    code, out, err = thaw("trials", "toy", "--json", "--csv")
    assert (code, out) == (2, "")
    assert "can not be combined" in err


def test_paths_are_kept_from_the_root(thaw, workplace):
    rows = "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(40))
    (workplace / "data.csv").write_text("text,label\n" + rows)
    arguments = ("sweep", "text_csv", "--set", "data=data.csv", "--dry-run", "--json")
    code, out, err = thaw(*arguments)
    assert code == 0, err
    assert json.loads(out)["samples"][0]["data"] == str(workplace / "data.csv")
