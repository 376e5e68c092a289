"""Labelled texts as token ids: what is checked, prepared and encoded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from labelled_texts import PLAIN, config, write

from trainables.errors import InputError
from trainables.modalities.texts import text_data
from trainables.prepared import PreparedData
from trainables.tasks.text_classification import TASK, TextClassificationConfig


@pytest.mark.parametrize(
    ("files", "values", "message"),
    [
        ({"a.csv": "text,label\n"}, {}, "no usable row for train"),
        ({"a.csv": "text,label\na,1\nb,1\n" + PLAIN[11:31]}, {}, "give no validation sample"),
        (
            {"a.csv": "text,label\n" + "".join(f"x{i},pos\n" for i in range(20))},
            {},
            "needs at least 2 classes, and the training split has only 'pos'",
        ),
        (
            {"train.csv": PLAIN, "dev.jsonl": '{"text": "q", "label": "odd"}'},
            {},
            r"label 'odd' \(line 1 of the val split\) occurs in no row of the training split",
        ),
        (
            {"a.csv": PLAIN},
            {"text_column": "label", "label_column": "text"},
            "Is label_column = 'text' right",
        ),
    ],
)
def test_data_that_can_not_be_trained_on(tmp_path, files, values, message):
    for name, content in files.items():
        write(tmp_path, name, content)
    data = tmp_path if len(files) > 1 else tmp_path / "a.csv"
    with pytest.raises(InputError, match=message):
        TASK.prepare(config(data, **values), tmp_path / "cache")


@pytest.mark.parametrize(
    ("files", "values", "message"),
    [
        ({"a.xlsx": PLAIN}, {}, r"unknown kind of file '\.xlsx'; valid: \.csv"),
        ({"a.csv": ""}, {}, "text_column = 'text': a.csv has no such column; it has: none at all"),
        ({"a.csv": "Text,Labels,txt\n"}, {}, "'text': a.csv .* it has: txt, Text, Labels"),
        ({"a.csv": PLAIN}, {"label_column": "text"}, "label_column = 'text': must not be"),
        ({"a.csv": PLAIN}, {"split_column": "fold"}, "split_column = 'fold': a.csv has no such"),
        ({"a.csv": "text,text,label\n"}, {}, "a.csv has more than one column of that name"),
        ({"a.jsonl": '[{"text": 1}]'}, {}, "each line must be a JSON object"),
        ({"dev.csv": PLAIN, "b": ""}, {}, r"needs a train file, such as train\.csv .* dev\.csv"),
        ({"train.csv": PLAIN, "val.csv": PLAIN, "dev.csv": PLAIN}, {}, "are both the val split"),
        ({"train.csv": PLAIN, "b": ""}, {"split_column": "c"}, "only for a single file"),
        ({"train.csv": PLAIN, "test.csv": "body,label\n"}, {}, "'text': test.csv has no such"),
        ({"a.csv": PLAIN}, {"model": "scratch:bert-min"}, "unknown model .* valid: scratch:bert-m"),
        ({"a.csv": PLAIN}, {"model": "./nowhere"}, r"model = '\./nowhere': no such folder"),
        ({"a.csv": PLAIN}, {"model": "bert base"}, "neither a folder nor a Hugging Face name"),
        (
            {"a.csv": PLAIN},
            {"freezing": "first_k", "frozen_blocks": 4},
            r"must be from 1 to 3, .* has 4 blocks \(embeddings, layer\.0, layer\.1, head\)",
        ),
    ],
)
def test_check_names_what_is_wrong(tmp_path, files, values, message):
    for name, content in files.items():
        write(tmp_path, name, content)
    data = tmp_path if len(files) > 1 else tmp_path / next(iter(files))
    with pytest.raises(InputError, match=message):
        TASK.check(config(data, **values))


def test_check_looks_into_a_local_model(tmp_path):
    data = write(tmp_path, "a.csv", PLAIN)
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(InputError, match=r"no config\.json and no weights .* and no tokenizer"):
        TASK.check(config(data, model=str(model)))
    about = {"model_type": "roberta", "num_hidden_layers": 3, "max_position_embeddings": 66}
    write(model, "config.json", json.dumps(about))
    write(model, "model.safetensors", "")
    write(model, "vocab.json", "")
    TASK.check(config(data, model=str(model), max_tokens=64))
    with pytest.raises(InputError, match="max_tokens = 65: must be at most 64"):
        TASK.check(config(data, model=str(model), max_tokens=65))
    with pytest.raises(InputError, match="must be from 1 to 4"):
        TASK.check(config(data, model=str(model), freezing="first_k", frozen_blocks=5))
    write(model, "config.json", "{}")
    with pytest.raises(InputError, match="names no model_type"):
        TASK.check(config(data, model=str(model)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[TextClassificationConfig, PreparedData, Path]:
    folder = tmp_path_factory.mktemp("prepared")
    chosen = config(write(folder, "a.csv", PLAIN), max_tokens=8)
    return chosen, TASK.prepare(chosen, folder / "cache"), folder


def test_prepared_arrays(prepared):
    _, data, _ = prepared
    assert data.info.classes == ("neg", "pos")
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes == {"train": 28, "val": 6, "test": 6}
    for split in data.splits.values():
        ids, length = split.arrays["input_ids"], split.arrays["length"]
        assert ids.dtype == length.dtype == np.int32
        assert split.arrays["label"].dtype == np.int64
        assert ids.shape == (len(split), length.max())
        assert length.max() <= 8
        padding = np.arange(ids.shape[1]) >= length[:, None]
        assert (ids[padding] == data.info.details["pad_id"]).all()
        assert (ids[~padding] != data.info.details["pad_id"]).all()


def test_prepared_data_is_made_once_per_content(prepared, monkeypatch):
    chosen, data, folder = prepared
    monkeypatch.setattr(text_data, "make_tokenizer", lambda *_: pytest.fail("made again"))
    again = TASK.prepare(chosen, folder / "cache")
    assert again.info == data.info
    changed = chosen.model_copy(update={"learning_rate": 0.1})
    TASK.prepare(changed, folder / "cache")
    with pytest.raises(pytest.fail.Exception):
        TASK.prepare(chosen.model_copy(update={"max_tokens": 9}), folder / "cache")


def test_the_same_texts_give_the_same_tokenizer(prepared, tmp_path):
    chosen, data, _ = prepared
    again = TASK.prepare(chosen, tmp_path / "another")
    assert again.info == data.info
    files = [(d.assets / "tokenizer.json").read_bytes() for d in (data, again)]
    assert files[0] == files[1]


def test_encode_treats_new_texts_like_the_splits(prepared):
    chosen, data, _ = prepared
    texts = ["number 3 is good", "thing 7 is bad " * 9, "half \ud83d", "\u0001x"]
    arrays = text_data.encode([*texts, "é".encode()], chosen, data.info, data.assets)
    assert arrays["input_ids"].shape == (5, 8)
    assert arrays["length"][1] == 8
    first = text_data.encode(texts[:1], chosen, data.info, data.assets)
    width = first["input_ids"].shape[1]
    assert (first["input_ids"] == arrays["input_ids"][:1, :width]).all()
    assert text_data.encode([], chosen, data.info, data.assets)["length"].shape == (0,)
    for bad, message in ((" \n", "text 1: is empty"), (b"\xff", "text 1: is not UTF-8")):
        with pytest.raises(InputError, match=message):
            text_data.encode(["fine", bad], chosen, data.info, data.assets)


def test_cut_texts_are_reported(tmp_path):
    path = write(tmp_path, "a.csv", PLAIN + "long " * 30 + ",pos\n")
    info = TASK.prepare(config(path, max_tokens=8), tmp_path / "cache").info
    assert info.notes == ("1 of 41 texts have more than max_tokens = 8 tokens and were cut",)


def test_whole_numbers_sort_as_numbers(tmp_path):
    rows = "".join(f"word {i},{i % 11}\n" for i in range(220))
    path = write(tmp_path, "a.csv", "text,label\n" + rows)
    classes = TASK.prepare(config(path), tmp_path / "cache").info.classes
    assert classes == tuple(map(str, range(11)))


def test_checking_and_preparing_from_scratch_import_no_torch(tmp_path):
    path = write(tmp_path, "a.csv", PLAIN)
    code = (
        "import sys; from pathlib import Path\n"
        "from trainables.modalities.texts import text_data\n"
        "from trainables.tasks.text_classification import TASK, TextClassificationConfig as C\n"
        f"c = C(data={str(path)!r}); TASK.check(c); text_data.fetch(c)\n"
        "assert 'tokenizers' not in sys.modules\n"
        f"TASK.prepare(c, Path({str(tmp_path / 'cache')!r}))\n"
        "assert not {'torch', 'transformers', 'ray', 'optuna', 'mlflow'} & set(sys.modules)\n"
    )
    root = Path(text_data.__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)
