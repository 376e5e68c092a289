"""Image data: what is refused before the start, the sources, and folders as people have them."""

from __future__ import annotations

import gzip
import io
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from trainables.data.download import download
from trainables.errors import InputError
from trainables.modalities.images import image_data, known_sources
from trainables.modalities.images.decode import encode
from trainables.modalities.images.image_data import check, prepare
from trainables.prepared import DataInfo, PreparedData
from trainables.tasks.image_classification import ImageClassificationConfig


def config(**values: Any) -> ImageClassificationConfig:
    return ImageClassificationConfig(**{"data": "digits", "image_size": 8, **values})


def image(mode: str = "RGB", size: tuple[int, int] = (12, 10), seed: int = 0) -> Image.Image:
    """Noise in any of Pillow's modes."""
    generator = np.random.default_rng(seed)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        return Image.fromarray(generator.integers(0, 65536, size[::-1]).astype(kind))
    noise = Image.fromarray(generator.integers(0, 256, (*size[::-1], 4), np.uint8), "RGBA")
    return (noise if mode in ("RGBA", "LA") else noise.convert("RGB")).convert(mode)


def png(**values: Any) -> bytes:
    buffer = io.BytesIO()
    image(**values).save(buffer, "png")
    return buffer.getvalue()


def fill(folder: Path, n: int = 8, mode: str = "RGB", suffix: str = ".png", start: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + n):
        image(mode, seed=index).save(folder / f"{index:03}{suffix}")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, cat and dog, of eight images each."""
    for name in ("cat", "dog"):
        fill(tmp_path / "photos" / name)
    return tmp_path / "photos"


def ready(data: Path, cache: Path, **values: Any) -> PreparedData:
    values = {"val_fraction": 0.25, "test_fraction": 0.25, **values}
    check(config(data=str(data), **values))
    return prepare(config(data=str(data), **values), cache / "cache")


def sizes(prepared: PreparedData) -> dict[str, int]:
    return {name: len(split) for name, split in prepared.splits.items()}


# --- before the start


def test_checking_and_preparing_import_no_torch(tmp_path: Path) -> None:
    check(config())  # the first check of a model on a machine makes it
    script = f"""
import sys
from pathlib import Path
from trainables.tasks.image_classification import ImageClassificationConfig
from trainables.modalities.images.image_data import check, prepare, fetch
config = ImageClassificationConfig(data="digits", image_size=8)
check(config), prepare(config, Path({str(tmp_path)!r})), fetch(config)
print(sorted({{"torch", "torchvision", "sklearn", "ray", "optuna", "mlflow"}} & set(sys.modules)))
"""
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"data": "digit"},
        r"data = 'digit': is no data set's name and no folder; valid: digits, mnist",
    ),
    ({"data": __file__}, r"is a file; valid: "),
    ({"data": "/dev/zero"}, "data = '/dev/zero': is a device; valid: a regular file or a folder"),
    ({"weights": "/dev/zero"}, "weights = '/dev/zero': is a device; valid: a regular file"),
    ({"model": "resnet8"}, r"unknown model 'resnet8'; valid: resnet18, .* more"),
    ({"weights": "defualt"}, r"weights = 'defualt': there is no such file; valid: none, default"),
    ({"weights": __file__}, r"its ending '\.py' is none of weights; valid: .*\.safetensors"),
    (
        {"model": "vit_b_16", "image_size": 70},
        r"vit_b_16 can not take .*patch size.*; valid: image_size=96",
    ),
    ({"model": "vit_b_32"}, r"image_size = 8: vit_b_32 can not take .*; valid: image_size=32"),
    ({"model": "vgg11"}, r"image_size = 8: vgg11 can not take .*; valid: image_size=32"),
    ({"model": "inception_v3", "image_size": 64}, r"valid: image_size=75, or stem=small"),
    (
        {"model": "vgg16", "stem": "small", "image_size": 64},
        r"stem = 'small': vgg16 keeps .*valid for it: 'auto'",
    ),
    ({"model": "swin_t", "stem": "small"}, r"stem = 'small': swin_t cuts the image into patches"),
    (
        {"freezing": "first_k", "frozen_blocks": 6},
        r"frozen_blocks = 6: must be from 1 to 5.*6 blocks \(stem, layer1, .*, layer4, head\)",
    ),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[str(values) for values, _ in WRONG])
def test_check_says_what_is_wrong(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(config(**values))


def test_check_passes_what_is_right(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.touch()
    check(config())
    check(config(weights=str(weights)))
    check(config(weights="default", data="mnist"))
    check(config(freezing="first_k", frozen_blocks=5))


def test_a_folder_around_the_data_is_named(photos: Path) -> None:
    with pytest.raises(InputError, match=r"only one, 'photos'; did you mean '.*photos'\?"):
        check(config(data=str(photos.parent)))


# --- digits


def test_digits_are_the_scans_that_scikit_learn_ships(tmp_path: Path) -> None:
    prepared = prepare(config(), tmp_path)
    assert sizes(prepared) == {"train": 1259, "val": 269, "test": 269}
    split = prepared.splits["train"]
    images = split.arrays["image"]
    assert images.shape == (1259, 1, 8, 8)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    assert split.arrays["label"].dtype == np.int64
    details = prepared.info.details
    assert details["channels"] == 1
    assert details["mean"] == pytest.approx([images.mean() / 255], abs=1e-5)
    assert details["std"] == pytest.approx([images.std() / 255], abs=1e-5)
    for split in prepared.splits.values():
        assert np.bincount(split.arrays["label"], minlength=10).min() >= 0.09 * len(split)


def test_digits_resize_and_split_by_their_settings(tmp_path: Path) -> None:
    first = prepare(config(image_size=12), tmp_path)
    assert first.splits["val"].arrays["image"].shape == (269, 1, 12, 12)
    other = prepare(
        config(image_size=12, split_seed=1, val_fraction=0.3, test_fraction=0.0), tmp_path
    )
    assert sizes(other)["test"] == 0
    assert other.info.fingerprint != first.info.fingerprint


# --- IDX files


def write_idx(path: Path, values: np.ndarray) -> None:
    content = (
        struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, suffix: str = ".gz", n_train: int = 80, n_test: int = 20) -> None:
    generator = np.random.default_rng(0)
    for part, n in (("train", n_train), ("t10k", n_test)):
        images = generator.integers(0, 256, (n, 28, 28), np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(n, dtype=np.uint8) % 4)


@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx_files_keep_their_test_split(tmp_path: Path, place: str, suffix: str) -> None:
    write_mnist(tmp_path / "data" / place, suffix)
    prepared = ready(tmp_path / "data", tmp_path / "cache", val_fraction=0.2, image_size=28)
    assert sizes(prepared) == {"train": 60, "val": 20, "test": 20}  # 0.2 of all 100
    assert prepared.info.classes == ("0", "1", "2", "3")
    assert "test_fraction is not used" in prepared.info.notes[0]
    assert np.bincount(prepared.splits["val"].arrays["label"]).tolist() == [5, 5, 5, 5]


def test_idx_files_are_refused_where_they_are_not_whole(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()

    def message() -> str:
        with pytest.raises(InputError) as caught:
            ready(tmp_path, tmp_path / "cache")
        return str(caught.value)

    labels.write_bytes(whole[:10])
    assert "can not be read" in message()
    write_idx(labels, np.zeros(3, np.uint8))
    assert "holds 20 images" in message()
    assert "3 labels" in message()
    labels.write_bytes(gzip.compress(b"not an idx file"))
    assert "is not an IDX file" in message()
    labels.unlink()
    assert "lacks t10k-labels-idx1-ubyte.gz" in message()


def test_mnist_out_of_reach_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(url: str, path: Path, digest: str) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(known_sources, "download", unreachable)
    with pytest.raises(InputError) as caught:
        prepare(config(data="mnist", image_size=28), tmp_path)
    folder = tmp_path / "downloads" / "mnist"
    for part in (
        str(folder),
        "no route to host",
        "--set data=FOLDER",
        *known_sources.IDX_FILES.values(),
    ):
        assert part in str(caught.value)
    write_mnist(folder, "")  # by hand, unpacked
    assert sizes(prepare(config(data="mnist", image_size=28), tmp_path))["test"] == 20


def test_fashion_mnist_has_names_and_is_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "web")
    fetched = []

    def from_web(url: str, path: Path, digest: str) -> None:
        fetched.append(path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((tmp_path / "web" / url.rsplit("/", 1)[1]).read_bytes())

    monkeypatch.setattr(known_sources, "download", from_web)
    for _ in range(2):
        prepared = prepare(config(data="fashion_mnist", image_size=28), tmp_path)
    assert len(fetched) == 4
    assert prepared.info.classes[5] == "Sandal"


def test_a_download_is_whole_or_absent(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"hello")
    url = (tmp_path / "source").as_uri()
    download(url, tmp_path / "to" / "file", "md5:5d41402abc4b2a76b9719d911017c592")
    assert (tmp_path / "to" / "file").read_bytes() == b"hello"
    for address, digest in ((url, "sha256:00"), ((tmp_path / "gone").as_uri(), "md5:")):
        with pytest.raises(ConnectionError):
            download(address, tmp_path / "to" / "other", digest)
    assert os.listdir(tmp_path / "to") == ["file"]


def test_a_silent_server_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.data.download._TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/file"
        with pytest.raises(ConnectionError, match="timed out"):
            download(url, tmp_path / "file", "md5:")
    assert not any(tmp_path.iterdir())


# --- folders


def test_class_folders_are_split_by_class(photos: Path, tmp_path: Path) -> None:
    prepared = ready(photos, tmp_path)
    assert prepared.info.classes == ("cat", "dog")
    assert prepared.info.notes == ()
    assert sizes(prepared) == {"train": 8, "val": 4, "test": 4}
    assert prepared.splits["train"].arrays["image"].shape == (8, 3, 8, 8)
    assert np.bincount(prepared.splits["val"].arrays["label"]).tolist() == [2, 2]


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    for name in ("10", "9", "1"):
        fill(tmp_path / "data" / name)
    assert ready(tmp_path / "data", tmp_path).info.classes == ("1", "9", "10")


def break_truncated(photos: Path) -> str:
    content = png(size=(64, 64))
    (photos / "cat" / "cut.png").write_bytes(content[: len(content) // 2])
    return "cat/cut.png"


def break_empty(photos: Path) -> str:
    (photos / "cat" / "empty.jpg").touch()
    return "cat/empty.jpg (empty file)"


def break_stray_text(photos: Path) -> str:
    (photos / "dog" / "notes.txt").write_text("which dog is this?")
    return "dog/notes.txt (not an image in a format known to Pillow)"


def break_undecodable_name(photos: Path) -> str:
    Path(os.fsdecode(os.fsencode(photos) + b"/dog/\xff.png")).write_bytes(b"junk")
    return "dog/\ufffd.png"


@pytest.mark.parametrize(
    "breaking", [break_truncated, break_empty, break_stray_text, break_undecodable_name]
)
def test_unreadable_files_are_skipped_by_name(
    photos: Path, tmp_path: Path, breaking: Callable[[Path], str]
) -> None:
    expected = breaking(photos)
    prepared = ready(photos, tmp_path)
    assert sum(sizes(prepared).values()) == 16
    (note,) = prepared.info.notes
    assert note.startswith("skipped, not readable as images: ")
    assert expected in note
    note.encode()


def test_many_unreadable_files_are_counted(photos: Path, tmp_path: Path) -> None:
    for index in range(9):
        (photos / "cat" / f"{index}.txt").write_text("no")
    (note,) = ready(photos, tmp_path).info.notes
    assert note.endswith("and 4 more")
    assert note.count(".txt") == 5


def add_hidden_files(photos: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (photos / "cat" / name).write_bytes(b"x")
        (photos / name).write_bytes(b"x")
    (photos / ".ipynb_checkpoints").mkdir()
    (photos / "__MACOSX").mkdir()


def add_link_loop(photos: Path) -> None:
    (photos / "cat" / "again").symlink_to(photos / "cat")
    (photos / "cat" / "up").symlink_to(photos / "cat", target_is_directory=True)
    (photos / "dog" / "gone.png").symlink_to(photos / "nowhere.png")


def add_pipe(photos: Path) -> None:
    os.mkfifo(photos / "cat" / "pipe.png")


@pytest.mark.parametrize("adding", [add_hidden_files, add_link_loop, add_pipe])
def test_what_is_no_file_of_the_data_changes_nothing(
    photos: Path, tmp_path: Path, adding: Callable[[Path], None]
) -> None:
    before = ready(photos, tmp_path / "one")
    adding(photos)
    after = ready(photos, tmp_path / "two")
    assert after.info == before.info


def test_images_are_found_at_any_depth_and_by_content(photos: Path, tmp_path: Path) -> None:
    fill(photos / "cat" / "indoors" / "2020.jpg", 2)  # a directory named like an image
    (photos / "cat" / "no_suffix").write_bytes(png())
    (photos / "dog" / "really_a_png.jpg").write_bytes(png())
    prepared = ready(photos, tmp_path)
    assert sum(sizes(prepared).values()) == 20
    assert prepared.info.notes == ()


def test_a_class_without_images_is_named(photos: Path, tmp_path: Path) -> None:
    (photos / "emu").mkdir()
    with pytest.raises(InputError, match=r"no readable image in class folder 'emu'"):
        ready(photos, tmp_path)
    (photos / "emu" / "broken.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"'emu'; remove the folder or add images"):
        ready(photos, tmp_path)


def test_a_class_whose_images_are_all_cut_short_is_named(photos: Path, tmp_path: Path) -> None:
    (photos / "emu").mkdir()
    content = png(size=(64, 64))
    for index in range(3):
        (photos / "emu" / f"{index}.png").write_bytes(content[:-500])
    with pytest.raises(InputError, match=r"every file of 'emu' that fell to the train split"):
        ready(photos, tmp_path)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "data" / "cat")
    with pytest.raises(InputError, match=r"two or more classes; found only one, 'cat'"):
        check(config(data=str(tmp_path / "data")))


def test_too_few_images_to_validate_on_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "data" / name, 2)
    with pytest.raises(InputError, match=r"val_fraction = 0.1.*no class has more than 2"):
        ready(tmp_path / "data", tmp_path, val_fraction=0.1)


def test_loose_images_belong_to_no_class(photos: Path, tmp_path: Path) -> None:
    (photos / "lost.png").write_bytes(png())
    prepared = ready(photos, tmp_path)
    assert prepared.info.notes == ("not used, in no class folder: lost.png",)


# --- splits that came with the folder


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders_are_respected(tmp_path: Path, val: str) -> None:
    data = tmp_path / "data"
    for split, n in (("train", 6), (val, 3), ("test", 2)):
        for name in ("cat", "dog"):
            fill(data / split / name, n)
    assert sizes(ready(data, tmp_path)) == {"train": 12, "val": 6, "test": 4}


def test_missing_splits_are_cut_from_train(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split, n in (("train", 15), ("test", 5)):
        for name in ("cat", "dog"):
            fill(data / split / name, n)
    assert sizes(ready(data, tmp_path, val_fraction=0.2)) == {"train": 22, "val": 8, "test": 10}


def test_a_test_folder_without_classes_is_left_aside(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("cat", "dog"):
        fill(data / "train" / name)
    fill(data / "test", 3)
    prepared = ready(data, tmp_path)
    assert sizes(prepared) == {"train": 8, "val": 4, "test": 4}
    assert any("has no class folders: test" in note for note in prepared.info.notes)


def test_a_class_only_in_the_test_split_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            fill(tmp_path / "data" / split / name)
    fill(tmp_path / "data" / "test" / "emu")
    with pytest.raises(
        InputError, match=r"test folder has classes that its train folder lacks: emu"
    ):
        check(config(data=str(tmp_path / "data")))


def test_train_may_be_the_name_of_a_class(tmp_path: Path) -> None:
    for name in ("car", "plane", "train"):
        fill(tmp_path / "data" / name)
    assert ready(tmp_path / "data", tmp_path).info.classes == ("car", "plane", "train")


# --- what an image becomes

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F")


def info(channels: int, image_size: int) -> DataInfo:
    return DataInfo(("a", "b"), (), {"channels": channels, "image_size": image_size})


@settings(max_examples=80, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    channels=st.sampled_from([1, 3]),
    image_size=st.integers(4, 40),
)
def test_any_image_becomes_the_right_shape(
    mode: str, size: tuple[int, int], channels: int, image_size: int
) -> None:
    buffer = io.BytesIO()
    image(mode, size).save(buffer, "png" if mode in ("P", "LA") else "tiff")
    result = encode([buffer.getvalue()], config(), info(channels, image_size), Path())["image"]
    assert result.shape == (1, channels, image_size, image_size)
    assert result.dtype == np.uint8


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mode=st.sampled_from(["L", "RGB", "LA", "P"]))
def test_prediction_sees_what_training_saw(
    mode: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("data")
    for name in ("cat", "dog"):
        fill(folder / name, 4, mode)
    prepared = ready(folder, folder.parent / "cache", test_fraction=0.0)
    kept = np.concatenate([split.arrays["image"] for split in prepared.splits.values()])
    paths = [str(path) for path in sorted(folder.glob("*/*.png"))]
    encoded = encode(paths, config(), prepared.info, Path())["image"]
    assert sorted(row.tobytes() for row in kept) == sorted(row.tobytes() for row in encoded)


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("I;16", 1), ("RGB", 3), ("RGBA", 3)]
)
def test_greyscale_data_has_one_channel(tmp_path: Path, mode: str, channels: int) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "data" / name, 4, mode)
    prepared = ready(tmp_path / "data", tmp_path)
    assert prepared.info.details["channels"] == channels
    assert len(prepared.info.details["mean"]) == channels


def test_grey_images_saved_in_colour_are_grey_and_one_coloured_one_decides(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("cat", "dog"):
        (data / name).mkdir(parents=True)
        for index in range(4):
            image("L", seed=index).convert("RGB").save(data / name / f"{index}.png")
    assert ready(data, tmp_path).info.details["channels"] == 1
    image("RGB").save(data / "dog" / "red.png")
    assert ready(data, tmp_path).info.details["channels"] == 3


def one(content: bytes, channels: int = 3, image_size: int = 8) -> np.ndarray:
    return encode([content], config(), info(channels, image_size), Path())["image"][0]


def saved(picture: Image.Image, kind: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_photo_is_turned_upright() -> None:
    picture = Image.new("L", (8, 8))
    picture.paste(255, (0, 0, 8, 2))  # bright at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    shown = one(saved(picture, exif=exif), channels=1)
    assert shown[0, :, 7].tolist() == [255] * 8
    assert shown[0, :, 0].tolist() == [0] * 8


def test_what_is_transparent_is_white() -> None:
    assert one(saved(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))).min() == 255
    assert one(saved(Image.new("LA", (8, 8), (0, 0))), channels=1).min() == 255
    assert one(saved(Image.new("RGBA", (8, 8), (255, 0, 0, 255))))[:, 0, 0].tolist() == [255, 0, 0]


def test_sixteen_bits_become_eight() -> None:
    ramp = np.tile(np.linspace(0, 65535, 8).astype(np.uint16), (8, 1))
    assert one(saved(Image.fromarray(ramp)), channels=1)[0, 0].tolist() == [
        round(value / 257) for value in ramp[0].tolist()
    ]


def test_a_panorama_is_cropped_in_its_middle() -> None:
    wide = Image.new("RGB", (3000, 20), "blue")
    wide.paste("red", (1490, 0, 1510, 20))
    assert one(saved(wide))[:, 4, 4].tolist() == [255, 0, 0]


def test_an_item_that_is_no_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"item 1 \(4 bytes\) can not be read as an image"):
        encode([png(), b"text"], config(), info(3, 8), Path())
    with pytest.raises(InputError, match=r"gone.png' can not be read as an image: No such file"):
        encode([str(tmp_path / "gone.png")], config(), info(3, 8), Path())
    assert encode([], config(), info(3, 8), Path())["image"].shape == (0, 3, 8, 8)


def test_changed_files_are_prepared_again(photos: Path, tmp_path: Path) -> None:
    before = ready(photos, tmp_path)
    fill(photos / "dog", 4, start=50)
    after = ready(photos, tmp_path)
    assert sum(sizes(after).values()) == sum(sizes(before).values()) + 4
    assert len(list((tmp_path / "cache").glob("data/*/info.json"))) == 2


def test_known_data_is_what_check_names() -> None:
    assert image_data.KNOWN_DATA == ("digits", "mnist", "fashion_mnist")
