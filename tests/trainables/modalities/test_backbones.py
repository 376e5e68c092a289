"""Image backbones of torchvision and timm: names, blocks, stems, sizes, heads and weights."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from block_checks import check_blocks
from torch import Tensor, nn

from trainables.adapting.freezing import set_training_mode
from trainables.blocks import Block
from trainables.errors import InputError
from trainables.modalities.images import model_names as names
from trainables.modalities.images import weight_files
from trainables.modalities.images.backbones import (
    LinearWithDropout,
    _without_values,
    build,
)
from trainables.modalities.images.blocks import blocks, head_layers
from trainables.modalities.images.config import ImageConfig
from trainables.modalities.images.image_data import check, fetch
from trainables.modalities.images.model_names import block_names, model_names
from trainables.modalities.images.stem import SMALL_STEM_UP_TO, wants_small_stem
from trainables.prepared import DataInfo

MODELS = torchvision.models.list_models(module=torchvision.models)
# Small members of families that timm divides in different ways.
TIMM_MODELS = [
    f"timm:{name}"
    for name in (
        "convnext_atto",
        "deit_tiny_distilled_patch16_224",
        "densenet121",
        "mobilenetv3_small_050",
        "regnetx_002",
        "resnet18",
        "resnetv2_50",
        "swin_tiny_patch4_window7_224",
        "tf_efficientnet_lite0",
        "vgg11",
        "vit_tiny_patch16_224",
    )
]
INFO = DataInfo(
    ("ant", "bee", "cow"),
    (),
    {"channels": 3, "image_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3},
)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**values: Any) -> ImageConfig:
    return ImageConfig(**{"data": "digits", "image_size": 32, **values})


def made(**values: Any) -> nn.Module:
    return build(config(**values), INFO, Path())


def bare(**values: Any) -> nn.Module:
    return _without_values(config(**values))[0]


# --- all models


def test_every_model_is_found_without_importing_torchvision_or_timm() -> None:
    of_timm = sorted(f"timm:{name}" for name in timm.list_models())
    assert list(model_names()) == [*MODELS, *of_timm]
    assert len(MODELS) >= 80  # as of torchvision 0.29; the tests below run for each


@pytest.mark.parametrize("model", ["resnet", "tf_efficientnet_lite0", "timm:resnet19"])
def test_the_nearest_names_are_offered(model: str) -> None:
    with pytest.raises(InputError, match=rf"unknown model '{model}'; valid: (timm:)?(tf_|resnet)"):
        check(config(model=model))


def owner(path: str, model_blocks: tuple[Block, ...]) -> list[int]:
    return [
        index
        for index, block in enumerate(model_blocks)
        if any(path == own or path.startswith(f"{own}.") for own in block.paths)
    ]


@pytest.mark.parametrize("name", [*MODELS, *TIMM_MODELS])
def test_blocks_of_every_model(name: str) -> None:
    size = 224
    model = bare(model=name, image_size=size)
    found = blocks(model)
    check_blocks(model, found)
    assert found[0].name in ("stem", "embeddings")
    assert found[-1].name == "head"
    assert 4 <= len(found) == len({block.name for block in found})
    assert {path for path, _ in head_layers(model)} <= set(found[-1].paths)

    # What behaves differently in training must be in a block, or a frozen block would not be still.
    for path, module in model.named_modules():
        if isinstance(module, nn.Dropout | nn.BatchNorm2d | torchvision.ops.StochasticDepth):
            assert len(owner(path, found)) == 1, path

    # The blocks run one after the other, and the first one sees the image.
    calls: list[tuple[int, bool]] = []
    image = torch.empty(2, 3, size, size, device="meta")
    for path, module in model.named_modules():
        for index in owner(path, found):
            module.register_forward_pre_hook(
                lambda _, inputs, index=index: calls.append((index, inputs[0] is image))
            )
    with torch.no_grad():
        assert model.eval()(image).shape == (2, 2)
    order = [index for index, _ in calls]
    assert order == sorted(order)
    assert set(order) == set(range(len(found)))
    assert calls[0] == (0, True)


STAGES = [f"stage{i}" for i in range(1, 9)]
LAYERS = [f"layer.{i}" for i in range(12)]


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("alexnet", ["stage1", "stage2", "classifier"]),
        ("efficientnet_b0", STAGES),
        ("mobilenet_v3_small", [*STAGES[:4], "classifier"]),
        ("shufflenet_v2_x0_5", ["stage2", "stage3", "stage4", "conv5"]),
        ("squeezenet1_1", STAGES[:3]),
        ("vgg11", [*STAGES[:4], "classifier"]),
        ("vit_b_32", LAYERS),
        ("timm:resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("timm:tf_efficientnet_lite0", STAGES[:7]),
        ("timm:vit_tiny_patch16_224", LAYERS),
    ],
)
def test_names_of_blocks(name: str, inner: list[str]) -> None:
    first = "embeddings" if inner == LAYERS else "stem"
    assert block_names(config(model=name, image_size=64)) == (first, *inner, "head")


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "efficientnet_b0", "squeezenet1_1", "timm:resnet18"]
)
def test_a_small_stem_changes_no_block(name: str) -> None:
    small, standard = (block_names(config(model=name, stem=s)) for s in ("small", "standard"))
    assert small == standard


@pytest.mark.parametrize(
    ("values", "valid"),
    [
        ({"model": "alexnet", "image_size": 16, "stem": "standard"}, "63, or stem=small"),
        ({"model": "googlenet", "image_size": 8, "stem": "standard"}, "15, or stem=small"),
        ({"model": "vgg11", "image_size": 16}, "32"),
        ({"model": "vit_b_32", "image_size": 70}, "96"),
        ({"model": "timm:vit_tiny_patch16_224", "image_size": 12}, "16"),
    ],
)
def test_a_size_that_a_model_can_not_take_is_refused(values: dict[str, Any], valid: str) -> None:
    with pytest.raises(InputError) as caught:
        check(config(**values))
    message = str(caught.value)
    assert message.startswith(f"image_size = {values['image_size']}: {values['model']} can not")
    assert message.endswith(f"valid: image_size={valid}")


@pytest.mark.parametrize("model", ["vgg11", "vit_b_32", "swin_t", "timm:convnext_atto"])
def test_a_stem_that_can_not_be_small_is_refused(model: str) -> None:
    with pytest.raises(InputError, match=rf"stem = 'small': {model} (keeps|cuts) "):
        check(config(model=model, image_size=64, stem="small"))


def test_too_many_frozen_blocks_are_refused() -> None:
    check(config(freezing="first_k", frozen_blocks=5))
    with pytest.raises(InputError, match="frozen_blocks = 6: must be from 1 to 5, because"):
        check(config(freezing="first_k", frozen_blocks=6))


def test_a_tag_that_timm_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"model = 'timm:resnet18.x': .*Invalid pretrained tag"):
        check(config(model="timm:resnet18.x"))


def test_what_was_found_of_a_model_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_CACHE", str(tmp_path))
    names._found.cache_clear()
    found = block_names(config())
    [kept] = (tmp_path / "image_models").iterdir()
    assert json.loads(kept.read_text()) == list(found)
    kept.write_text('["from the file"]')
    names._found.cache_clear()
    assert block_names(config()) == ("from the file",)
    kept.write_text("[")
    names._found.cache_clear()
    assert block_names(config()) == found
    names._found.cache_clear()


# --- a model as configured


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "mobilenet_v3_small", "squeezenet1_1", "googlenet"]
)
def test_models_learn_from_their_outputs(name: str) -> None:
    model = made(model=name, image_size=32)
    logits = model.train()(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    if name != "squeezenet1_1":  # its logits are behind a ReLU, which may let nothing through
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_b0", "shufflenet_v2_x0_5", "regnet_y_400mf"]
)
@pytest.mark.parametrize(("stem", "side"), [("small", 16), ("standard", 8), ("auto", 16)])
def test_a_small_stem_keeps_the_resolution(name: str, stem: str, side: int) -> None:
    model = made(model=name, image_size=16, stem=stem).eval()
    shapes: list[tuple[int, ...]] = []
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape[2:])))
    with torch.no_grad():
        model(torch.randn(1, 3, 16, 16))
    assert shapes == [(side, side)]


def test_an_automatic_stem_is_small_for_small_images() -> None:
    standard = made(stem="standard")
    assert wants_small_stem(standard, config(image_size=SMALL_STEM_UP_TO))
    assert not wants_small_stem(standard, config(image_size=SMALL_STEM_UP_TO + 1))
    assert not wants_small_stem(bare(model="vgg11"), config(image_size=32))
    assert isinstance(made(image_size=32).get_submodule("maxpool"), nn.Identity)


def test_image_sizes_reach_the_models_that_fix_them() -> None:
    assert (
        made(model="vit_b_32", image_size=64).get_parameter("encoder.pos_embedding").shape[1] == 5
    )


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("resnet18", {"fc.dropout"}),
        ("densenet121", {"classifier.dropout"}),
        ("mobilenet_v2", {"classifier.0"}),
        ("mobilenet_v3_small", {"classifier.2"}),
        ("googlenet", {"dropout"}),
        ("timm:tf_efficientnet_lite0", {"classifier.dropout"}),
        ("timm:convnext_atto", {"head.drop"}),
        ("squeezenet1_1", {"classifier.0"}),
    ],
)
def test_dropout_is_the_heads(name: str, paths: set[str]) -> None:
    model = made(model=name, dropout=0.35)
    found = {k for k, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p == 0.35}
    assert found == paths
    check_blocks(model, blocks(model))
    assert tuple(block.name for block in blocks(model)) == block_names(config(model=name))
    plain = made(model=name)
    assert model.state_dict().keys() == plain.state_dict().keys()
    for block, same in zip(blocks(model), blocks(plain), strict=True):
        assert dict(block.parameters(model)).keys() == dict(same.parameters(plain)).keys()


def test_dropout_acts_in_training_only() -> None:
    layer = LinearWithDropout(nn.Linear(50, 4), 0.5)
    x = torch.randn(3, 50)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_frozen_blocks_are_still(name: str) -> None:
    model = made(model=name, dropout=0.5)
    found = blocks(model)
    set_training_mode(model, found, {name for name, _ in found[-1].parameters(model)})
    seen: list[Tensor] = []
    model.get_submodule(found[-1].paths[0]).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].detach().clone())
    )
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    outputs = [model(x) for _ in range(2)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(outputs[0], outputs[1])  # the head's dropout is at work
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


# --- weights


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    torch.manual_seed(3)
    return torchvision.models.resnet18()


def save(state: Any, path: Path) -> str:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("file", ["w.safetensors", "w.pt", "w.pth", "wrapped.tar", "compiled.bin"])
@pytest.mark.parametrize("stem", ["small", "standard"])
def test_weights_of_another_class_count_are_taken(
    resnet18: nn.Module, tmp_path: Path, file: str, stem: str
) -> None:
    state: Any = resnet18.state_dict()
    if file == "wrapped.tar":
        state = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    if file == "compiled.bin":
        state = {"model": {f"_orig_mod.{key}": value for key, value in state.items()}}
    weights = save(state, tmp_path / file)
    check(config(weights=weights))
    model = made(weights=weights, stem=stem)
    loaded = model.state_dict()
    for key, value in resnet18.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(loaded[key], value), key
    assert model.get_parameter("fc.weight").shape == (3, 512)
    assert model.get_submodule("conv1").stride == ((1, 1) if stem == "small" else (2, 2))


def test_weights_of_the_same_classes_keep_their_head(tmp_path: Path) -> None:
    first = made()
    again = made(weights=save(first.state_dict(), tmp_path / "w.pt"))
    assert torch.equal(first.get_parameter("fc.weight"), again.get_parameter("fc.weight"))
    x = torch.randn(2, 3, 32, 32)  # its 3x3 stem has become a 7x7 one that computes the same
    assert again.get_parameter("conv1.weight").shape[-1] == 7
    torch.testing.assert_close(first.eval()(x), again.eval()(x), atol=1e-5, rtol=1e-4)


def test_the_same_model_is_built_where_the_weights_are_not(
    resnet18: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "w.pt"
    with_file = made(weights=save(resnet18.state_dict(), path), dropout=0.1)
    path.unlink()
    without = build(config(weights=str(path), dropout=0.1), INFO, Path(), False)
    without.load_state_dict(with_file.state_dict())
    assert repr(without) == repr(with_file)


def test_other_weights_are_refused_by_name(resnet18: nn.Module, tmp_path: Path) -> None:
    state = resnet18.state_dict()
    weights = save(state, tmp_path / "w.pt")
    with pytest.raises(InputError) as caught:
        made(model="resnet50", weights=weights)
    message = str(caught.value)
    assert f"weights = {weights!r}: not those of a resnet50: 165 missing: layer1.0.conv3" in message
    assert "layer1.0.conv1.weight [64, 64, 3, 3] instead of [64, 64, 1, 1]" in message
    listed = re.findall(r"layer\S+(?= \[)", message)
    assert len(listed) == 5
    del state["layer4.1.bn2.bias"]
    with pytest.raises(InputError, match=r"1 missing: layer4\.1\.bn2\.bias$"):
        made(weights=save(state, tmp_path / "w.pt"))


class _Payload:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('this file ran code')",))


def test_what_is_not_weights_is_refused(resnet18: nn.Module, tmp_path: Path) -> None:
    whole = save(resnet18.state_dict(), tmp_path / "w.pt")
    content = Path(whole).read_bytes()

    def message(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            made(weights=str(tmp_path / name))
        assert name in str(caught.value)
        return str(caught.value)

    assert "damaged" in message("cut.pt", content[: len(content) // 2])
    assert "damaged" in message("empty.pt", b"")
    assert "damaged" in message("junk.tar", b"junk" * 50)
    assert "damaged" in message("junk.safetensors", b"junk" * 50)
    save({"lr": 0.1, "steps": [1]}, tmp_path / "other.pt")
    assert "holds a dict with lr, steps" in message("o.pt", (tmp_path / "other.pt").read_bytes())
    save(_Payload(), tmp_path / "evil.pt")
    assert "would have to run code" in message("e.pt", (tmp_path / "evil.pt").read_bytes())
    with pytest.raises(InputError, match="No such file"):
        made(weights=str(tmp_path / "gone.pt"))


@pytest.mark.parametrize(("name", "size"), [("mnasnet0_5", 32), ("densenet121", 32)])
def test_weights_without_version_numbers_are_taken(name: str, size: int, tmp_path: Path) -> None:
    state = torchvision.models.get_model(name).state_dict()
    # DenseNet's published files have norm.1 for norm1
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", k): v for k, v in state.items()}
    assert (old.keys() == state.keys()) == (name == "mnasnet0_5")
    weights = save(old, tmp_path / "w.safetensors")
    model = made(model=name, weights=weights, image_size=size)
    key = next(key for key in state if key.endswith("weight"))
    assert torch.equal(model.state_dict()[key], state[key])
    safetensors.torch.save_model(model, str(tmp_path / "again.safetensors"))
    safetensors.torch.load_model(copy.deepcopy(model), str(tmp_path / "again.safetensors"))


def test_position_embeddings_are_interpolated(tmp_path: Path) -> None:
    state = {
        key: torch.zeros(v.shape)
        for key, v in bare(model="vit_b_32", image_size=64).state_dict().items()
    }
    state["encoder.pos_embedding"] += 0.5
    bigger = bare(model="vit_b_32", image_size=128).to_empty(device="cpu")
    weight_files.fill(bigger, state, ["heads.head"], "here")
    position = bigger.get_parameter("encoder.pos_embedding")
    assert position.shape[1] == 17
    torch.testing.assert_close(position, torch.full_like(position, 0.5))


def test_auxiliary_heads_are_left_out(tmp_path: Path) -> None:
    state = torchvision.models.googlenet(init_weights=False).state_dict()
    assert any(key.startswith("aux1.") for key in state)
    model = made(model="googlenet", weights=save(state, tmp_path / "w.pt"))
    assert torch.equal(model.get_parameter("conv1.conv.weight"), state["conv1.conv.weight"])
    assert model.transform_input


def test_default_weights_are_looked_for_in_the_hub_and_fetched(
    resnet18: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    asked: list[tuple[str, str]] = []

    def unreachable(url: str, path: Path, digest: str) -> None:
        asked.append((url, digest))
        raise ConnectionError("no route to host")

    monkeypatch.setattr(weight_files, "download", unreachable)
    with pytest.raises(InputError) as caught:
        fetch(config(weights="default"))
    for part in ("resnet18-f37072fd.pth", str(tmp_path), "no route to host", "--set weights=PATH"):
        assert part in str(caught.value)
    assert asked == [
        ("https://download.pytorch.org/models/resnet18-f37072fd.pth", "sha256:f37072fd")
    ]
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    save(resnet18.state_dict(), checkpoints / "resnet18-f37072fd.pth")
    fetch(config(weights="default"))
    model = made(weights="default")
    assert torch.equal(model.get_parameter("bn1.weight"), resnet18.get_parameter("bn1.weight"))


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"]
)
def test_weights_of_timm_are_taken_from_a_file(name: str, tmp_path: Path) -> None:
    published = timm.create_model(name)
    weights = save(published.state_dict(), tmp_path / "w.safetensors")
    model = made(model=f"timm:{name}", weights=weights, image_size=64)
    heads = tuple(path for path, _ in head_layers(model))
    loaded = model.state_dict()
    for key, value in published.state_dict().items():
        if not key.startswith(heads) and key != "pos_embed":
            assert torch.equal(loaded[key], value), key
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    with pytest.raises(InputError, match=r"not those of a timm:resnet18: .* missing: conv1"):
        made(model="timm:resnet18", weights=weights)


def test_weights_of_timm_that_can_not_be_fetched_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as caught:
        fetch(config(model="timm:resnet10t", weights="default"))
    message = str(caught.value)
    assert "weights = 'default': timm's weights of timm:resnet10t are not in the cache" in message
    assert "--set weights=PATH" in message
