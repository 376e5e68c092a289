"""Wrong input at the command line: exit code 2, a message that helps, and nothing started."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from search_spaces.domains import Float, SearchSpace
from trainables.prepared import DataInfo
from trainables.tasks.image_classification import ImageClassificationConfig
from trainables.training.checkpoint import CheckpointDescription, save_checkpoint
from tuning.record.events import EVENTS_FILE, Record
from tuning.record.sweep import SWEEP_FILE, Sweep
from tuning.storage.saved_sweeps import save_sweep

HEAVY = {"torch", "torchvision", "transformers", "ray", "mlflow", "optuna"}
MAX_CPU_SECONDS = 1.5
MAX_SECONDS_OF_A_PROCESS = 4.0  # 0.7 s on a quiet machine; a loaded one is slower

SPACE_FILES = {
    "no_space.py": "domains = {}",
    "wrong_type.py": "SPACE = {'learning_rate': (1e-4, 1e-2)}",
    "syntax.py": "SPACE = 1\nx = = 2",
    "raises.py": "\n\nraise RuntimeError('no luck')",
    "prints.py": "print('hello')",
    "imports.py": "import no_such_library",
    "exits.py": "import sys\nsys.exit(0)",
    "task.py": "SPACE = SearchSpace('mine', {'dropout': Float(0.0, 0.5)}, 'image_clasification')",
    "domain.py": "SPACE = SearchSpace('mine', {'dropuot': Float(0.0, 0.5)}, TASK, fixed=DIGITS)",
    "fixed.py": "SPACE = SearchSpace('mine', {'dropout': Float(0, 0.5)}, TASK, fixed={'dat': ''})",
    "range.py": "SPACE = SearchSpace('mine', {'dropout': Float(0.0, 1.5)}, TASK, fixed=DIGITS)",
    "bounds.py": "SPACE = SearchSpace('mine', {'dropout': Float(0.5, 0.1)}, TASK, fixed=DIGITS)",
    "no_train.py": "SPACE = SearchSpace('mine', {'dropout': Float(0.0, 0.5)})",
    "condition.py": (
        "SPACE = SearchSpace('mine', {'dropout': Float(0.0, 0.5, when={'colour': 'red'})}, TASK)"
    ),
}
_HEADER = """
from search_spaces.domains import Choice, Float, SearchSpace
TASK, DIGITS = "image_classification", {"data": "digits"}
"""
TEXT_FILES = {
    "note.txt": "just a note",
    "no_image.png": "not a picture",
    "names.csv": "body,class\na fine film,good\n",
    "table.xlsx": "text,label\na fine film,good\n",
    "empty.csv": "",
    "header.csv": "text,label\n",
    "one_class.csv": "text,label\n" + "".join(f"film number {i},good\n" for i in range(40)),
    "labels.csv": "text,label\n" + "".join(f"film number {i},label {i}\n" for i in range(40)),
    "keys.jsonl": '{"text": "a fine film"}\n',
    "films.csv": "text,label\n"
    + "".join(f"film number {i},{'good' if i % 2 else 'bad'}\n" for i in range(40)),
    "damaged.pt": "nonsense",
    "damaged.safetensors": "nonsense",
    "weights.onnx": "nonsense",
    "same_numbers.csv": "text,number\n" + "".join(f"film {i},3\n" for i in range(40)),
    "pictures.csv": "path,number\nnowhere.png,5\nnowhere.png,6\n",
    "words.conll": "Ada B-person\nsaw O\nRome B-place\n\n" * 20,
    "one_tag.conll": "".join(f"Ada O\nsaw O\n{i} O\n\n" for i in range(40)),
    "no_tags.conll": "Ada\nsaw\nRome\n\n",
    "empty.conll": "",
    "blank.txt": " \n\n",
    "gpt2/config.json": '{"model_type": "gpt2", "n_layer": 2, "n_positions": 16}',
    "gpt2/tokenizer.json": "{}",
    "gpt2/model.safetensors": "nonsense",
    "bert/config.json": '{"model_type": "bert", "num_hidden_layers": 6}',
    "bert/vocab.txt": "[PAD]",
    "bert/model.safetensors": "nonsense",
}


@dataclass(frozen=True)
class Wrong:
    """A command line, and what its message must say."""

    id: str
    command: str
    parts: tuple[str, ...]

    def __init__(self, id: str, command: str, *parts: str) -> None:
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "command", command)
        object.__setattr__(self, "parts", parts)


# Found before anything heavy is imported and before any data is read.
AT_ONCE = [
    # The command line itself
    Wrong("no such command", "swep digits", "swep", "sweep"),
    Wrong("no such option", "sweep digits --trial 3", "--trial", "--trials", "thaw sweep --help"),
    Wrong("no space given", "sweep", "SPACE", "thaw sweep --help"),
    Wrong("too many words", "tasks images", "images"),
    Wrong("option without value", "sweep digits --trials", "--trials", "argument"),
    # Search spaces
    Wrong(
        "unknown space", "sweep digit", "unknown search space 'digit'; valid: digits", "ends in .py"
    ),
    Wrong("no such space to show", "spaces mnits", "'mnits'; valid: mnist"),
    Wrong("space file missing", "sweep nothere.py", "'nothere.py': there is no such file"),
    Wrong("space file without SPACE", "sweep no_space.py", "must define SPACE", "it is missing"),
    Wrong("SPACE of another type", "sweep wrong_type.py", "must define SPACE", "it is a dict"),
    Wrong("space file with a syntax error", "sweep syntax.py", "'syntax.py', line 5", "syntax"),
    Wrong("space file that raises", "sweep raises.py", "line 6", "RuntimeError: no luck"),
    Wrong("space file without a library", "sweep imports.py", "line 4", "no_such_library"),
    Wrong("space file that exits", "sweep exits.py", "'exits.py', line 5", "SystemExit"),
    Wrong(
        "unknown task",
        "sweep task.py",
        "unknown task 'image_clasification'; valid: image_classification, text_classification",
    ),
    Wrong(
        "unknown setting searched",
        "sweep domain.py",
        "search space mine: unknown setting 'dropuot'; valid: dropout",
    ),
    Wrong("unknown setting fixed", "sweep fixed.py", "unknown setting 'dat'; valid: data"),
    Wrong("range beyond the rule", "sweep range.py", "dropout = 1.5: must be less than 1"),
    Wrong("bounds swapped", "sweep bounds.py", "Float(0.5, 0.1)", "low must not be above high"),
    Wrong("neither task nor train", "sweep no_train.py", "task None", "train(config, run)"),
    Wrong(
        "condition on nothing", "sweep condition.py", "domain dropout", "'colour'", "valid: none"
    ),
    Wrong(
        "prefix cache without unit",
        "sweep digits --prefix-cache 20",
        "--prefix-cache = '20': must be auto, off, or a size such as 500MB or 20GB",
    ),
    Wrong(
        "checkpoint budget without unit",
        "sweep digits --checkpoint-budget 20",
        "--checkpoint-budget = '20': must be a size such as 500MB or 20GB",
    ),
    Wrong("negative prefix cache", "sweep digits --prefix-cache -1GB", "'-1GB': must be auto"),
    Wrong("too many views", "sweep digits --set cached_views=1000", "cached_views = '1000'", "100"),
    # Settings
    Wrong("--set without =", "sweep digits --set epochs", "--set 'epochs': must be key=value"),
    Wrong("--set without key", "sweep digits --set =3", "--set '=3': must be key=value"),
    Wrong("--set twice", "sweep digits --set epochs=3 --set epochs=4", "--set epochs: given twice"),
    Wrong(
        "misspelt setting",
        "sweep digits --set learning_rat=1",
        "unknown setting 'learning_rat'; valid: learning_rate",
    ),
    Wrong("half an epoch", "sweep digits --set epochs=2.5", "epochs = '2.5': must be", "integer"),
    Wrong("negative epochs", "sweep digits --set epochs=-3", "epochs = '-3': must be", "1"),
    Wrong("no number", "sweep digits --set epochs=1e1x", "epochs = '1e1x': must be", "integer"),
    Wrong("empty value", "sweep digits --set epochs=", "epochs = '': must be", "integer"),
    Wrong("infinite", "sweep digits --set learning_rate=inf", "learning_rate = 'inf'", "finite"),
    Wrong(
        "not a number", "sweep digits --set learning_rate=nan", "learning_rate = 'nan'", "finite"
    ),
    Wrong(
        "unknown choice",
        "sweep digits --set freezing=heads",
        "freezing = 'heads': must be one of head, none, first_k, gradual, lp_ft",
    ),
    Wrong(
        "more blocks than there are",
        "sweep digits --set freezing=first_k --set frozen_blocks=9",
        "frozen_blocks = 9: must be from 1 to 5",
        "resnet18 has 6 blocks (stem, layer1",
    ),
    Wrong(
        "setting of another strategy",
        "sweep digits --set freezing=head --set frozen_blocks=2",
        "frozen_blocks = 2: only freezing=first_k uses it",
    ),
    Wrong(
        "micro-batch above batch",
        "sweep digits --set batch_size=8 --set micro_batch_size=9",
        "micro_batch_size = 9: must be at most batch_size = 8",
    ),
    Wrong(
        "nothing left to search",
        "sweep range.py --set dropout=0.1",
        "--set fixes every domain",
    ),
    Wrong(
        "fp16 without a GPU", "sweep digits --set precision=fp16", "'fp16': needs a GPU", "'bf16'"
    ),
    Wrong(
        "unknown model",
        "sweep digits --set model=resnet81",
        "unknown model 'resnet81'; valid: resnet18",
    ),
    Wrong(
        "image too small for the model",
        "sweep digits --set model=vgg11",
        "image_size = 8: vgg11",
        "valid: image_size=32",
    ),
    Wrong(
        "weights missing",
        "sweep digits --set weights=nothere.pt",
        "weights = 'nothere.pt': there is no such file; valid: none, default",
    ),
    Wrong(
        "weights of another kind",
        "sweep digits --set weights=weights.onnx",
        "weights = '",
        "weights.onnx'",
        "'.onnx'",
        ".safetensors",
    ),
    # How to search
    Wrong("no trials", "sweep digits --trials 0", "--trials = 0: must be at least 1"),
    Wrong("negative trials", "sweep digits --trials -5", "--trials = -5: must be at least 1"),
    Wrong("many trials", "sweep digits --trials many", "--trials = 'many': must be", "integer"),
    Wrong("vague budget", "sweep digits --time-budget soon", "--time-budget", "'soon'", "90s, 10m"),
    Wrong("negative budget", "sweep digits --time-budget -5s", "--time-budget = -5", "than 0"),
    Wrong("endless budget", "sweep digits --time-budget inf", "--time-budget = inf", "finite"),
    Wrong(
        "gpus in words",
        "sweep digits --gpus-per-trial all",
        "'all'",
        "a number, such as 0.5, or auto",
    ),
    Wrong(
        "negative gpus", "sweep digits --gpus-per-trial -1", "--gpus-per-trial = -1", "at least 0"
    ),
    Wrong("no concurrency", "sweep digits --concurrency 0", "--concurrency = 0", "at least 1"),
    Wrong(
        "too many CPUs",
        "sweep digits --cpus-per-trial 999",
        "needs 999 CPUs",
        "node with 2 CPUs",
        "lower --cpus-per-trial",
    ),
    Wrong("CPUs not a number", "sweep digits --cpus-per-trial nan", "--cpus-per-trial = nan"),
    Wrong(
        "a GPU where there is none",
        "sweep digits --gpus-per-trial 1",
        "1 GPUs on one node, and there is 1 × node with 2 CPUs",
        "--gpus-per-trial",
    ),
    Wrong("negative seed", "sweep digits --seed -1", "--seed = -1: must be at least 0"),
    Wrong("keep nothing", "sweep digits --keep-checkpoints 0", "--keep-checkpoints = 0"),
    Wrong(
        "unknown metric",
        "sweep digits --metric val_acuracy",
        "unknown metric 'val_acuracy'; valid: val_accuracy",
    ),
    Wrong(
        "metric turned round",
        "sweep digits --metric val_accuracy:min",
        "--metric 'val_accuracy:min'",
        "maximum",
    ),
    Wrong("metric upwards", "sweep digits --metric val_loss:up", "'val_loss:up'", "max or min"),
    Wrong("unknown searcher", "sweep digits --searcher tpee", "'tpee'; valid: tpe, "),
    Wrong("unknown scheduler", "sweep digits --scheduler ashaa", "'ashaa'; valid: asha, "),
    Wrong("unknown engine", "sweep digits --engine rays", "'rays'; valid: ray, inprocess"),
    # Names and places
    Wrong("name with a space", "sweep digits --name 'a b'", "--name 'a b': must be 1 to 100"),
    Wrong("name that climbs", "sweep digits --name ../up", "--name '../up': must be"),
    Wrong("empty name", "sweep digits --name ''", "--name '': must be"),
    Wrong("empty experiment", "sweep digits --experiment ''", "--experiment = '': must not be"),
    Wrong(
        "name that is taken",
        "sweep digits --name done",
        "--name 'done': that sweep exists already",
        "thaw resume done",
    ),
    Wrong(
        "sweeps folder is a file",
        "sweep digits --sweeps-folder note.txt",
        "--sweeps-folder",
        "note.txt' is not a folder",
    ),
    Wrong(
        "sweeps folder below a file",
        "sweep digits --sweeps-folder note.txt/sweeps",
        "--sweeps-folder",
        "note.txt' is not a folder",
    ),
    Wrong(
        "MLflow in a folder",
        "sweep digits --tracking-uri ./mlruns",
        "--tracking-uri = './mlruns': must start with sqlite:///",
    ),
    Wrong(
        "MLflow in no database",
        "sweep digits --tracking-uri sqlite:///note.txt",
        "'sqlite:///note.txt'",
        "no SQLite database",
    ),
    Wrong(
        "MLflow in memory", "sweep digits --tracking-uri sqlite://", "'sqlite://': must start with"
    ),
    Wrong("no address", "sweep digits --address nowhere", "--address = 'nowhere'", "HOST:PORT"),
    Wrong("nobody there", "sweep digits --address 127.0.0.1:1", "no Ray cluster answers there"),
    Wrong("port zero", "ui --port 0", "--port = '0': must be", "1"),
    Wrong("UI of a folder", "ui --tracking-uri ./mlruns", "'./mlruns': must start with"),
    # Data
    Wrong("no images given", "sweep image_folder", "data is missing", "must be set"),
    Wrong(
        "misspelt data set",
        "sweep digits --set data=digit",
        "data = 'digit'",
        "valid: digits, mnist",
        "folder of images per class",
    ),
    Wrong(
        "no such folder", "sweep image_folder --set data=nothere", "data = 'nothere'", "no folder"
    ),
    Wrong("file for a folder", "sweep image_folder --set data=note.txt", "note.txt': is a file"),
    Wrong(
        "one class of images",
        "sweep image_folder --set data=one_class",
        "one_class': must hold a folder",
        "two or more classes; found only one, 'cat'",
    ),
    Wrong("no texts given", "sweep text_csv", "data is missing", "must be set"),
    Wrong("no such file", "sweep text_csv --set data=nothere.csv", "data = 'nothere.csv': no such"),
    Wrong(
        "other columns",
        "sweep text_csv --set data=names.csv",
        "text_column = 'text'",
        "it has: body, class",
    ),
    Wrong(
        "keys missing",
        "sweep text_csv --set data=keys.jsonl",
        "label_column = 'label'",
        "it has: text",
    ),
    Wrong("spreadsheet", "sweep text_csv --set data=table.xlsx", "'.xlsx'; valid: .csv, .tsv"),
    Wrong("empty file", "sweep text_csv --set data=empty.csv", "empty.csv", "none at all"),
    Wrong(
        "unknown untrained model",
        "sweep text_csv --set data=films.csv --set model=scratch:bert-tny",
        "unknown model 'scratch:bert-tny'; valid: scratch:bert-tiny",
    ),
    Wrong(
        "no model folder",
        "sweep text_csv --set data=films.csv --set model=./nothere",
        "model = './nothere': no such folder",
    ),
    # Words with tags
    Wrong("no sentences given", "sweep token_classification", "data is missing", "must be set"),
    Wrong(
        "tag in no column",
        "sweep token_classification --set data=words.conll --set tag_position=7",
        "tag_position = 7: must be from -2 to 1; the lines of words.conll have 2 columns",
    ),
    Wrong(
        "word in no column",
        "sweep token_classification --set data=words.conll --set word_position=-3",
        "word_position = -3: must be from -2 to 1",
    ),
    Wrong(
        "word and tag in one column",
        "sweep token_classification --set data=words.conll --set tag_position=0",
        "tag_position = 0: must not be the word_position too",
    ),
    Wrong(
        "position in words",
        "sweep token_classification --set data=words.conll --set word_position=first",
        "word_position = 'first': must be",
        "integer",
    ),
    Wrong(
        "words without tags",
        "sweep token_classification --set data=no_tags.conll",
        "no_tags.conll has no word with a tag",
    ),
    Wrong(
        "no words", "sweep token_classification --set data=empty.conll", "empty.conll has no word"
    ),
    Wrong(
        "lists missing",
        "sweep token_classification --set data=keys.jsonl",
        "words_column = 'tokens': keys.jsonl has no such column; it has: text",
    ),
    Wrong(
        "a picture of words",
        "sweep token_classification --set data=no_image.png",
        "unknown kind of file '.png'; valid: .conll",
    ),
    # Numbers
    Wrong(
        "no numbers",
        "sweep text_regression --set data=films.csv",
        "number_column = 'number': films.csv has no such column; it has: text, label",
    ),
    Wrong(
        "text for a number",
        "sweep text_regression --set data=films.csv --set number_column=text",
        "number_column = 'text': must not be the text_column too",
    ),
    Wrong(
        "no column of pictures",
        "sweep image_regression --set data=films.csv --set number_column=label",
        "path_column = 'path': films.csv has no such column",
    ),
    Wrong(
        "folder without a table",
        "sweep image_regression --set data=one_class",
        "one_class': the folder needs a train file, such as train.csv",
    ),
    # Texts to go on with
    Wrong(
        "model that sees ahead",
        "sweep language_modeling --set data=note.txt --set model=scratch:bert-mini",
        "model = 'scratch:bert-mini': is an encoder (bert), which sees the token",
    ),
    Wrong(
        "misspelt model of language",
        "sweep language_modeling --set data=note.txt --set model=scratch:gpt2-min",
        "unknown model 'scratch:gpt2-min'; valid: scratch:gpt2-mini",
    ),
    Wrong(
        "more tokens than positions",
        "sweep language_modeling --set data=note.txt --set model=./gpt2",
        "max_tokens = 128: must be at most 16, the positions of model",
    ),
    Wrong(
        "answer of no tokens",
        "sweep language_modeling --set data=note.txt --set answer_tokens=0",
        "answer_tokens = '0': must be",
    ),
    Wrong(
        "spreadsheet of documents",
        "sweep language_modeling --set data=table.xlsx",
        "unknown kind of file '.xlsx'; valid: .txt",
    ),
    Wrong(
        "no column of documents",
        "sweep language_modeling --set data=names.csv",
        "text_column = 'text': names.csv has no such column; it has: body, class",
    ),
    Wrong(
        "metric of another task",
        "sweep language_modeling --set data=note.txt --metric val_accuracy",
        "unknown metric 'val_accuracy'; valid: val_",
    ),
    # Sweeps that are there, or not
    *(
        Wrong(
            f"{command} of no sweep", f"{command} dne", "unknown sweep 'dne'; valid: done", "sweeps"
        )
        for command in ("resume", "best", "trials", "retrain")
    ),
    Wrong(
        "no sweeps at all",
        "best done --sweeps-folder one_class",
        "unknown sweep 'done'",
        "looked in",
        "one_class",
    ),
    Wrong("best of none", "best failed", "sweep failed: no trial has reached a value", "1 failed"),
    Wrong("retrain the best of none", "retrain failed", "no trial has reached a value"),
    Wrong("description cut short", "trials cut", "cut/sweep.json' is damaged", "line 1"),
    Wrong("description of less", "resume lacking", "lacking/sweep.json' is damaged: it lacks"),
    Wrong("of another version", "trials older", "'older' was made by another version of Thaw"),
    Wrong("record cut in the middle", "best torn", "torn/events.jsonl': line 2 is damaged"),
    Wrong("record of nonsense", "trials strange", "strange/events.jsonl': line 1 is damaged"),
    Wrong("two kinds of output", "trials done --csv", "--json and --csv can not be combined"),
    Wrong("no workers", "retrain done --workers 0", "--workers = 0: must be at least 1"),
    Wrong("no seeds", "retrain done --seeds 0", "--seeds = 0: must be at least 1"),
    Wrong("no such trial", "retrain done --trial 99", "--trial = 99", "trials 0 to 0"),
    Wrong("more workers than samples", "retrain done --workers 17", "--workers = 17", "is 16"),
    # Models
    Wrong("no such model", "predict nothere x", "model 'nothere'", "models:/NAME@champion"),
    Wrong("model is a file", "predict note.txt x", "model 'note.txt'", "neither a folder"),
    Wrong("no checkpoint", "predict one_class x", "'one_class' is not a checkpoint"),
    Wrong("no MLflow to ask", "predict models:/m@champion x", "there is no MLflow at sqlite"),
    Wrong("checkpoint damaged", "predict damaged x", "damaged/model.safetensors' is damaged"),
    Wrong("checkpoint incomplete", "predict incomplete x", "model.safetensors' can not be read"),
    Wrong("description damaged", "predict garbled x", "garbled/checkpoint.json' is damaged"),
    Wrong("no such image", "predict whole nothere.png", "'nothere.png': there is no such file"),
]

# Found before anything starts, but only when the data is prepared or the weights are read.
WHEN_PREPARED = [
    Wrong(
        "empty class",
        "sweep image_folder --set data=empty_class",
        "empty_class': no readable image in class folder 'bird'",
    ),
    Wrong(
        "one class of texts",
        "sweep text_csv --set data=one_class.csv",
        "label_column = 'label': needs at least 2 classes",
        "only 'good'",
    ),
    Wrong(
        "one tag",
        "sweep token_classification --set data=one_tag.conll",
        "one_tag.conll': needs at least 2 tags, and the training split has only 'O'",
    ),
    Wrong(
        "words for numbers",
        "sweep text_regression --set data=films.csv --set number_column=label",
        "films.csv': no usable row for train",
        "40 rows dropped, wrong number: 'bad' is not a number",
    ),
    Wrong(
        "all numbers the same",
        "sweep text_regression --set data=same_numbers.csv",
        "are 3; there is nothing to predict",
    ),
    Wrong(
        "pictures that are not there",
        "sweep image_regression --set data=pictures.csv",
        "pictures.csv': no usable row for train",
        "2 rows dropped, wrong path: 'nowhere.png' is no file",
    ),
    Wrong("documents without text", "sweep language_modeling --set data=blank.txt", "blank.txt"),
    Wrong(
        "weights of language damaged",
        "sweep language_modeling --set data=note.txt --set model=./gpt2 --set max_tokens=16",
        "gpt2': its weights model.safetensors are damaged",
    ),
    Wrong("no rows", "sweep text_csv --set data=header.csv", "header.csv': no usable row"),
    Wrong(
        "a label for each row",
        "sweep text_csv --set data=labels.csv",
        "40 rows give no validation sample in 40 classes",
        "Is label_column = 'label' right?",
    ),
    Wrong(
        "weights damaged", "sweep digits --set weights=damaged.pt", "damaged.pt': can not be read"
    ),
    Wrong(
        "weights damaged otherwise",
        "sweep digits --set weights=damaged.safetensors",
        "damaged.safetensors': can not be read",
    ),
    Wrong(
        "weights of another model",
        "sweep digits --set model=resnet50 --set weights=whole/model.safetensors",
        "whole/model.safetensors': not those of a resnet50",
        "missing",
    ),
    Wrong(
        "text model damaged",
        "sweep text_csv --set data=films.csv --set model=bert",
        "bert': its weights model.safetensors are damaged",
    ),
    Wrong("not an image", "predict whole no_image.png", "'no_image.png'", "image"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with something wrong of every kind."""
    folder = tmp_path_factory.mktemp("place")
    for name, body in SPACE_FILES.items():
        (folder / name).write_text(_HEADER + body)
    for name in ("bert", "gpt2"):
        (folder / name).mkdir()
    for name, content in TEXT_FILES.items():
        (folder / name).write_text(content)
    for name in ("one_class/cat", "empty_class/cat", "empty_class/dog"):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (8, 8), 30 * number).save(folder / name / f"{number}.png")
    (folder / "empty_class" / "bird").mkdir()
    _make_sweeps(folder / "sweeps")
    _make_checkpoints(folder)
    return folder


def _make_sweeps(folder: Path) -> None:
    for name in ("done", "failed", "torn", "strange", "cut", "lacking", "older"):
        sweep = Sweep(
            name=name, folder=folder / name, space=SearchSpace("toy", {"x": Float(0.0, 1.0)}),
            train_file=None, metric="value", mode="max", trials=1, time_budget_seconds=None,
            cpus_per_trial=None, gpus_per_trial=None, concurrency=None, seed=0, searcher="tpe",
            scheduler="none", engine="inprocess", tracking_uri="sqlite:///mlflow.db",
            experiment="toy", keep_checkpoints=1, max_failures=None, address=None,
            cache_folder=folder,
        )  # fmt: skip
        save_sweep(sweep)
        record = Record(sweep.folder)
        record.append("trial_started", trial=0, point={"x": 0.5}, config={"batch_size": 16})
        if name != "failed":
            record.append("epoch", trial=0, epoch=1, metrics={"value": 0.5})
        state = "failed" if name == "failed" else "completed"
        record.append("trial_ended", trial=0, state=state, error=None)
        record.close()
    events = (folder / "torn" / EVENTS_FILE).read_text().splitlines(keepends=True)
    (folder / "torn" / EVENTS_FILE).write_text("".join([events[0], '{"event": "ep\n', events[2]]))
    (folder / "strange" / EVENTS_FILE).write_text('{"event": "epoch", "trial": 7}\n')
    description = (folder / "cut" / SWEEP_FILE).read_text()
    (folder / "cut" / SWEEP_FILE).write_text(description[:20].replace("\n", ""))
    (folder / "lacking" / SWEEP_FILE).write_text('{"format": 2, "name": "lacking"}')
    (folder / "older" / SWEEP_FILE).write_text(description.replace('"format": 2', '"format": 1'))


def _make_checkpoints(folder: Path) -> None:
    from trainables.tasks.image_classification import load

    task = load()
    config = ImageClassificationConfig(data="digits", model="squeezenet1_1", image_size=17)
    info = DataInfo(
        ("0", "1"), details={"channels": 1, "image_size": 17, "mean": [0.5], "std": [0.3]}
    )
    assets = folder / "assets"
    assets.mkdir()
    model = task.build(config, info, assets, False)
    for name in ("whole", "damaged", "incomplete", "garbled"):
        description = CheckpointDescription(task.name, config.model_dump(), info, 1, {}, {})
        save_checkpoint(folder / name, description, model, {}, assets)
    with (folder / "damaged" / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    (folder / "incomplete" / "model.safetensors").unlink()
    (folder / "garbled" / "checkpoint.json").write_text("{")


@dataclass(frozen=True)
class Answer:
    """How the command line ended."""

    code: object
    stdout: str
    stderr: str
    cpu_seconds: float


@pytest.fixture
def thaw(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[[str], Answer]:
    """Runs a command line in this process, on a machine of two CPUs and no GPU."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("tuning.record.sweep.this_machine", lambda: (2, 0))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # typer sets its own

    def run(command: str) -> Answer:
        from tuning.command_line.cli import main

        monkeypatch.setattr(sys, "argv", ["thaw", *shlex.split(command)])
        handler = signal.getsignal(signal.SIGTERM)
        started = time.process_time()
        try:
            main()
            code: object = 0
        except SystemExit as error:
            code = error.code
        finally:
            seconds = time.process_time() - started
            signal.signal(signal.SIGTERM, handler)
        return Answer(code, *capfd.readouterr(), seconds)

    return run


def check(case: Wrong, place: Path, thaw: Callable[[str], Answer]) -> Answer:
    """Run a wrong command line and hold all that must be true of any."""
    name, _, rest = case.command.partition(" ")
    before = contents(place)
    answer = thaw(case.command if name in ("swep", "ui") else f"{name} --json {rest}")
    assert answer.code == 2, answer.stderr
    for part in case.parts:
        assert part in answer.stderr
    assert answer.stderr.startswith("error: ")
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""
    assert contents(place) == before
    return answer


def contents(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file and folder below ``folder``, with size and time of change."""
    stats = {path: path.stat() for path in folder.rglob("*")}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


@pytest.mark.parametrize("case", AT_ONCE, ids=lambda case: case.id)
def test_wrong_input_is_refused_at_once(
    case: Wrong, place: Path, thaw: Callable[[str], Answer]
) -> None:
    before = set(sys.modules)
    answer = check(case, place, thaw)
    assert answer.cpu_seconds < MAX_CPU_SECONDS
    assert not HEAVY & (set(sys.modules) - before)


@pytest.mark.parametrize("case", WHEN_PREPARED, ids=lambda case: case.id)
def test_wrong_data_is_refused_before_anything_starts(
    case: Wrong, place: Path, thaw: Callable[[str], Answer]
) -> None:
    before = set(sys.modules)
    check(case, place, thaw)
    assert "ray" not in set(sys.modules) - before


@pytest.mark.parametrize(
    "case", [case for case in WHEN_PREPARED if case.command.startswith("sweep")], ids=lambda c: c.id
)
def test_a_dry_run_reads_the_data_too(
    case: Wrong, place: Path, thaw: Callable[[str], Answer]
) -> None:
    if "weights" not in case.id and "text model" not in case.id:  # of the model, read when built
        check(Wrong(case.id, f"{case.command} --dry-run", *case.parts), place, thaw)


def test_there_are_as_many_cases_as_there_seem() -> None:
    ids = [case.id for case in AT_ONCE + WHEN_PREPARED]
    assert len(ids) == len(set(ids)) >= 125


def test_mlflow_address_in_the_environment_is_named_as_such(
    place: Path, thaw: Callable[[str], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    case = Wrong("", "sweep digits", "$MLFLOW_TRACKING_URI = './mlruns': must start with")
    check(case, place, thaw)


def test_ray_address_in_the_environment_is_named_as_such(
    place: Path, thaw: Callable[[str], Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    check(Wrong("", "sweep digits", "$RAY_ADDRESS = 'http://127.0.0.1:8265'"), place, thaw)


# The same in a process of its own, which a person waits for.
IN_A_PROCESS = [
    ("sweep digit --json", "valid: digits"),
    ("sweep digits --set learning_rat=1 --json", "valid: learning_rate"),
    ("sweep image_folder --set data=nothere --json", "data = 'nothere'"),
    ("best dne --json", "valid: done"),
    ("sweep prints.py --json", "hello"),
]


@pytest.mark.parametrize(("command", "part"), IN_A_PROCESS)
def test_console_script_answers_soon(command: str, part: str, place: Path, tmp_path: Path) -> None:
    script = Path(sysconfig.get_path("scripts")) / "thaw"
    started = time.monotonic()
    result = subprocess.run(
        [script, *shlex.split(command)],
        cwd=place,
        env={"THAW_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    seconds = time.monotonic() - started
    assert result.returncode == 2
    assert part in result.stderr
    assert result.stdout == ""
    assert seconds < MAX_SECONDS_OF_A_PROCESS


def test_nothing_heavy_is_imported_to_refuse(place: Path) -> None:
    code = f"""
import json, shlex, sys
from tuning.command_line.cli import main
found = {{}}
for command in {[command for command, _ in IN_A_PROCESS]!r}:
    sys.argv = ["thaw", *shlex.split(command)]
    try:
        main()
    except SystemExit as error:
        found[command] = [error.code, sorted({HEAVY!r} & set(sys.modules))]
print(json.dumps(found))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, timeout=60
    )
    assert json.loads(result.stdout) == {command: [2, []] for command, _ in IN_A_PROCESS}
