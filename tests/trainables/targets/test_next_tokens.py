"""Models of language: packed tokens, what they lose, and how they go on with a text."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import CAUSAL, CORPUS, TOKENIZERS, save_causal
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from trainables.config import check_config
from trainables.errors import InputError
from trainables.modalities.texts import pretrained, text_data
from trainables.modalities.texts.packed_blocks import _pack, encode
from trainables.modalities.texts.tokenization import tokens_and_bytes
from trainables.prepared import DataInfo, gather
from trainables.targets.next_tokens import TextMeter, go_on
from trainables.task import Trained, TrainingRun
from trainables.tasks.causal_language_modeling import TASK, CausalLanguageModelingConfig
from trainables.tasks.predictor import Predictor
from trainables.training.loop import evaluate, fit

LINES = [f"the quick fox number {i} jumps over New York" for i in range(120)]


@pytest.fixture(scope="module", params=CAUSAL)
def model_folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_causal(request.param, folder)
    return folder


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "lines.txt"
    path.write_text("\n".join(LINES))
    return path


def config_of(data: Path, model: Any, **values: Any) -> CausalLanguageModelingConfig:
    given = {"data": str(data), "model": str(model), "max_tokens": 16, "epochs": 1, **values}
    return check_config(
        {"learning_rate": 1e-2, "batch_size": 16, "answer_tokens": 8, **given}, TASK.config_type
    )


def test_loss_and_bits_are_those_of_a_plain_computation(model_folder, documents, tmp_path):
    config, run = config_of(documents, model_folder), TrainingRun(tmp_path)
    task = TASK.load()
    data = task.prepare(config, run.cache_folder)
    model = task.build(config, data.info, data.assets, True)
    found = evaluate(task, model, config, data, "val", run).metrics

    plain = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    text = documents.read_text()
    arrays = data.splits["val"].arrays
    total, n_tokens, n_bytes = 0.0, 0, 0
    for ids, length in zip(arrays["input_ids"], arrays["length"], strict=True):
        own = torch.from_numpy(ids[:length].astype(np.int64))[None]
        with torch.no_grad():
            total += float(plain(input_ids=own, labels=own).loss) * (int(length) - 1)
        n_tokens += int(length) - 1
        # what stands behind the first token, without special ones, is a piece of the text
        written = tokenizer.decode(ids[:length].tolist())
        assert written.strip() in text
        n_bytes += len(written.encode()) - len(tokenizer.decode(ids[:1].tolist()).encode())
    assert found["loss"] == pytest.approx(total / n_tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / n_tokens), rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(total / math.log(2) / n_bytes, rel=1e-5)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    folders = {}
    for name, make in TOKENIZERS.items():
        folders[name] = tmp_path_factory.mktemp("tokenizer")
        make().save(str(folders[name] / "tokenizer.json"))
    return folders


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.text(max_size=30), st.sampled_from(CORPUS)), min_size=1, max_size=5),
    st.sampled_from(sorted(TOKENIZERS)),
    st.integers(8, 20),
)
def test_packing_loses_no_token_and_no_byte(folder_of, texts, name, size):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    config = CausalLanguageModelingConfig(data="", max_tokens=size)
    tokenizer = Tokenizer.from_file(str(folder_of[name] / "tokenizer.json"))
    expected, expected_bytes = [], 0
    for text in texts:
        encoding = tokenizer.encode(text)
        special = encoding.special_tokens_mask
        expected += encoding.ids if any(special) else [*encoding.ids, 7]
        if not all(special):  # else nothing is left of the text that could stand for it
            expected_bytes += len(text.encode())
    ids, n_bytes = tokens_and_bytes(texts, folder_of[name], 7)
    assert ids.tolist() == expected
    assert n_bytes.sum() == expected_bytes

    packed = _pack(texts, config, {"end_id": 7, "pad_id": 3}, folder_of[name])
    lengths = packed["length"]
    kept = np.concatenate(
        [row[:n] for row, n in zip(packed["input_ids"], lengths, strict=True)] or [[]]
    )
    lost = len(ids) % size == 1
    assert kept.tolist() == ids[: len(ids) - lost].tolist()
    assert (lengths[:-1] == size).all()
    assert (lengths >= 2).all()
    firsts = np.arange(len(lengths)) * size
    behind_firsts = n_bytes[: len(ids) - lost].sum() - n_bytes[firsts].sum()
    assert packed["n_bytes"].sum() == behind_firsts


def test_a_document_ends_with_what_its_tokenizer_adds_or_else_an_end_token(folder_of):
    ids, _ = tokens_and_bytes(["the fox", "the dog"], folder_of["gpt2"], 7)
    assert ids.tolist().count(7) == 2
    assert ids[-1] == 7
    ids, _ = tokens_and_bytes(["the fox", "the dog"], folder_of["llama"], 7)
    assert ids.tolist().count(1) == 2  # <s>, at the beginning of each
    assert ids[0] == 1
    assert 7 not in ids


def test_two_workers_measure_what_one_does():
    def heard(rows: range) -> TextMeter:
        meter = TextMeter(DataInfo())
        for i in rows:
            batch = {
                "input_ids": torch.full((1, 4), i),
                "length": torch.tensor([4 - i % 2]),
                "n_bytes": torch.tensor([10 + i]),
            }
            meter.update(torch.zeros(1, 4, 9), batch)
        return meter

    alone, first = heard(range(8)), heard(range(3))
    first.merge([heard(range(3)).state(), heard(range(3, 8)).state()])
    assert first.compute(1.5) == alone.compute(1.5)
    assert first.beginnings == alone.beginnings
    assert alone.compute(0.0)["perplexity"] == 1.0


def test_the_embeddings_stay_tied_or_not_through_a_checkpoint(model_folder, documents, tmp_path):
    config, run = config_of(documents, model_folder), TrainingRun(tmp_path / "cache")
    (report,) = fit(TASK.load(), config, run)
    report.save(tmp_path / "checkpoint")
    predictor = Predictor(tmp_path / "checkpoint")
    model = predictor._trained.model
    about = json.loads((model_folder / "config.json").read_text())
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == about.get("tie_word_embeddings", True)
    evaluation = predictor.evaluate("val", run)
    assert evaluation.metrics["loss"] == pytest.approx(report.metrics["val_loss"], rel=1e-6)
    samples = predictor.artifacts(evaluation)["samples.txt"].decode()
    assert samples.count("⟶") == 5
    (row,) = predictor.predict(["the quick fox"])
    assert row["text"]


def ending_model(folder: Path, token: int) -> Trained:
    """A GPT-2 of which ``token`` is always the likeliest next one."""
    model = save_causal("gpt2", folder)
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.transformer.wte.weight[token] = 9.0
    model.save_pretrained(folder)
    config = config_of(Path("x"), folder, answer_tokens=20, max_tokens=32)
    info = DataInfo(details={"pad_id": 1, "end_id": 1, "vocabulary_size": 420})
    return Trained(model, config, info, folder)


def test_it_stops_where_a_text_ends(tmp_path):
    tokenizer = TOKENIZERS["gpt2"]()
    ids = tokenizer.encode("the quick fox").ids
    assert go_on(ending_model(tmp_path / "ends", 1), [ids]) == [("the quick fox", "")]
    fox = tokenizer.encode(" fox").ids[-1]
    trained = ending_model(tmp_path / "goes_on", fox)
    ((before, added),) = go_on(trained, [ids])
    assert before == "the quick fox"
    assert added == tokenizer.decode([fox]) * 20
    # no further than max_tokens, and one token at least
    long = (ids * 20)[:30]
    assert go_on(trained, [long])[0][1] == tokenizer.decode([fox]) * 2
    assert go_on(trained, [(ids * 20)[:32]])[0][1] == tokenizer.decode([fox])


def test_a_model_that_begins_a_new_text_has_ended_the_old_one(tmp_path):
    trained = ending_model(tmp_path, 0)
    about = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**about, "bos_token": "<s>"}))
    ids = TOKENIZERS["gpt2"]().encode("the quick fox").ids
    assert go_on(trained, [ids]) == [("the quick fox", "")]


def test_what_is_added_keeps_the_space_before_it(tmp_path):
    save_causal("llama", tmp_path)
    tokenizer = TOKENIZERS["llama"]()
    config = config_of(Path("x"), tmp_path)
    info = DataInfo(details={"pad_id": 0, "end_id": 2})
    raw = gather(
        encode(["the quick brown fox"], config, info, tmp_path), np.arange(1), torch.device("cpu")
    )
    assert raw["input_ids"][0].tolist() == tokenizer.encode("the quick brown fox").ids

    class Writes(torch.nn.Module):
        def generate(self, prompt: torch.Tensor, **settings: Any) -> torch.Tensor:
            return torch.tensor([[*prompt[0].tolist(), *tokenizer.encode("jumps").ids[1:]]])

    trained = Trained(Writes(), config, info, tmp_path)
    assert go_on(trained, [raw["input_ids"][0].tolist()]) == [("the quick brown fox", " jumps")]


def test_a_prompt_is_cut_at_its_beginning_and_never_ends(folder_of):
    config = CausalLanguageModelingConfig(data="", max_tokens=8)
    info = DataInfo(details={"pad_id": 3, "end_id": 1})
    found = encode(["the fox", " ".join(["the dog"] * 30)], config, info, folder_of["roberta"])
    assert found["length"][1] == 7  # room for one more
    assert 1 not in found["input_ids"]  # </s>, which this tokenizer adds
    assert found["input_ids"][0, 0] == 0  # <s>
    found = encode(["\u200b"], config, info, folder_of["bert"])
    assert found["length"].tolist() == [2]  # of [CLS] and [SEP]


def test_more_tokens_than_positions_are_refused(tmp_path, documents):
    save_causal("gpt2", tmp_path)
    with pytest.raises(InputError, match="max_tokens = 65: must be at most 64, the positions"):
        TASK.check(config_of(documents, tmp_path, max_tokens=65))
    about = {"model_type": "t5", "n_positions": 512, "relative_attention_num_buckets": 32}
    assert pretrained.max_positions(about) is None
    about = {"model_type": "gpt2", "n_positions": 1024}
    assert pretrained.max_positions(about) == 1024


def test_a_model_that_sees_ahead_is_refused(documents, tmp_path):
    for model in ("scratch:bert-mini", tmp_path):
        save_causal("gpt2", tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
        with pytest.raises(InputError, match=r"is an encoder .*, which sees the token it is to"):
            TASK.check(config_of(documents, model))
    (tmp_path / "config.json").write_text('{"model_type": "roberta", "is_decoder": true}')
    text_data.check_model(config_of(documents, tmp_path))


def test_a_model_without_its_head_is_refused(documents, tmp_path):
    model = save_causal("llama, head not tied", tmp_path / "whole")
    model.model.save_pretrained(tmp_path / "headless")
    for file in (tmp_path / "whole").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "headless")
    about = json.loads((tmp_path / "headless/config.json").read_text())
    assert about["architectures"] == ["LlamaModel"]
    config = config_of(documents, tmp_path / "headless")
    task = TASK.load()
    data = task.prepare(config, tmp_path / "cache")
    with pytest.raises(InputError, match=r"1 parameters of the pretrained part .* lm_head.weight"):
        task.build(config, data.info, data.assets, True)
