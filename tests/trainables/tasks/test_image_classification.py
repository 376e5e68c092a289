"""Image models: every one that torchvision has, its blocks, stem, sizes, head and weights."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from trainables.adapting.freezing import set_training_mode
from trainables.blocks import Block, check_blocks
from trainables.errors import InputError
from trainables.modalities.images import weight_files
from trainables.modalities.images.backbones import (
    LinearWithDropout,
    _make_stem_small,
    _MetaParameters,
    _try_forward,
    block_names,
    construct_without_values,
)
from trainables.modalities.images.blocks import blocks, last_layer
from trainables.modalities.images.image_data import check, fetch
from trainables.modalities.images.model_names import (
    FAMILIES,
    SMALL_STEM_UP_TO,
    Family,
    family_of,
    model_names,
    wants_small_stem,
)
from trainables.prepared import DataInfo
from trainables.tasks.image_classification import ImageClassificationConfig, load

MODELS = torchvision.models.list_models(module=torchvision.models)
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


TASK = load()


def config(**values: Any) -> ImageClassificationConfig:
    return ImageClassificationConfig(**{"data": "digits", "image_size": 32, **values})


def made(**values: Any) -> nn.Module:
    return TASK.build(config(**values), INFO, Path(), True)


def family(model: str) -> Family:
    found = family_of(model)
    assert found is not None
    return found


def usual_size(model: str) -> int:
    """A size that suits the model's standard stem, small for speed."""
    row = family(model)
    return max(64, row.smallest[0]) // row.multiple_of * row.multiple_of or row.multiple_of


# --- all models


def test_every_model_is_found_without_importing_torchvision() -> None:
    assert list(model_names()) == MODELS
    assert len(MODELS) >= 80  # as of torchvision 0.29; the tests below run for each


def owner(path: str, model_blocks: tuple[Block, ...]) -> list[int]:
    return [
        index
        for index, block in enumerate(model_blocks)
        if any(path == own or path.startswith(f"{own}.") for own in block.paths)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_blocks_of_every_model(name: str) -> None:
    size = usual_size(name)
    model = construct_without_values(config(model=name, image_size=size))
    found = blocks(model)
    check_blocks(model, found)
    assert tuple(block.name for block in found) == family(name).blocks
    assert found[-1].name == "head"
    assert next(key for key, _ in found[-1].parameters(model)).startswith(last_layer(model)[0])

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


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.pattern)
def test_smallest_sizes_and_small_stems_of_every_family(row: Family) -> None:
    name = next(model for model in MODELS if family(model) is row)
    for small in (False, True) if row.stem == "strided" else (False,):
        model = construct_without_values(config(model=name, image_size=usual_size(name)))
        if small:
            with _MetaParameters():
                _make_stem_small(model, config(model=name))
            model.to("meta")
            assert tuple(block.name for block in blocks(model)) == row.blocks
        smallest = row.smallest[small]
        if row.multiple_of == 1:
            _try_forward(model, config(model=name, image_size=max(smallest, 4)))
        if smallest > 4 and row.multiple_of == 1:
            with pytest.raises(InputError, match=f"image_size = {smallest - 1}: {name}"):
                _try_forward(model, config(model=name, image_size=smallest - 1))


def test_a_model_of_a_later_torchvision_is_still_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.modalities.images.model_names.FAMILIES", ())
    monkeypatch.setattr("trainables.modalities.images.blocks._CUTS", {})
    assert block_names(config(model="resnet18"))[0] == "stem"
    check_blocks(made(model="mobilenet_v2"), blocks(made(model="mobilenet_v2")))
    with pytest.raises(InputError, match="from 1 to"):
        check(config(freezing="first_k", frozen_blocks=99))
    with pytest.raises(InputError, match="image_size = 16: alexnet can not take images"):
        made(model="alexnet", image_size=16)
    with pytest.raises(InputError, match="stem = 'small': vgg11 begins with a convolution"):
        made(model="vgg11", image_size=64, stem="small")


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
    assert wants_small_stem(config(image_size=SMALL_STEM_UP_TO))
    assert not wants_small_stem(config(image_size=SMALL_STEM_UP_TO + 1))
    assert not wants_small_stem(config(image_size=32, model="vgg11"))
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
        ("squeezenet1_1", {"classifier.0"}),
    ],
)
def test_dropout_is_the_heads(name: str, paths: set[str]) -> None:
    model = made(model=name, dropout=0.35)
    found = {k for k, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p == 0.35}
    assert found == paths
    check_blocks(model, blocks(model))
    assert tuple(block.name for block in blocks(model)) == family(name).blocks
    assert model.state_dict().keys() == made(model=name).state_dict().keys()


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
    without = TASK.build(config(weights=str(path), dropout=0.1), INFO, Path(), False)
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
    model = construct_without_values(config(model="vit_b_32", image_size=64), n_classes=5)
    state = {key: torch.zeros(value.shape) for key, value in model.state_dict().items()}
    state["encoder.pos_embedding"] += 0.5
    bigger = construct_without_values(config(model="vit_b_32", image_size=128)).to_empty(
        device="cpu"
    )
    weight_files.fill(bigger, weight_files._clean(state), "heads.head", "here")
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


# --- the task


def details(channels: int) -> DataInfo:
    values = {
        "channels": channels,
        "image_size": 8,
        "mean": [0.25] * channels,
        "std": [0.5] * channels,
    }
    return DataInfo(("a", "b"), (), values)


def test_inputs_are_normalised_and_greyscale_goes_to_all_channels() -> None:
    raw = {
        "image": torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 8, 8)
    }
    image = TASK.transform(raw, config(), details(1), None)["image"]
    assert image.shape == (2, 3, 8, 8)
    assert image.dtype == torch.float32
    assert torch.equal(image[0], torch.full((3, 8, 8), -0.5))
    assert torch.equal(image[1], torch.full((3, 8, 8), 1.5))


def test_only_a_generator_augments() -> None:
    raw = {"image": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)}
    for policy in ("digits", "photo"):
        settings = config(augmentation=policy)
        plain = TASK.transform(raw, settings, details(3), None)["image"]
        assert torch.equal(plain, TASK.transform(raw, config(), details(3), None)["image"])
        changed = TASK.transform(raw, settings, details(3), torch.Generator().manual_seed(0))
        assert changed["image"].shape == plain.shape
        assert not torch.equal(changed["image"], plain)


def test_digits_are_learned_from_files_to_loss(tmp_path: Path) -> None:
    settings = config(image_size=8, model="resnet18")
    data = TASK.prepare(settings, tmp_path)
    torch.manual_seed(0)
    model = TASK.build(settings, data.info, data.assets, True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    split = data.splits["train"]
    raw = {name: torch.tensor(array[:24]) for name, array in split.arrays.items()}
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        inputs = TASK.transform(raw, settings, data.info, None)
        loss = TASK.loss(TASK.forward(model, inputs), inputs, settings) / 24
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    meter = TASK.meter(data.info)
    meter.update(TASK.forward(model, inputs), inputs)
    assert meter.compute(0.0)["accuracy"] > 0.8
