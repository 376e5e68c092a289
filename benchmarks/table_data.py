"""The small data sets of the learning curves: standardised arrays, split once and for all.

Few rows to train on and many to validate on: an epoch is cheap, and an accuracy finely resolved.
"""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn import datasets
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from table_resnet20 import resnet20_features

Arrays = tuple[np.ndarray, np.ndarray]  # features [n_rows, n_features], classes [n_rows]


@dataclass(frozen=True)
class Data:
    """Float32 features [n_rows, n_features] and int64 classes [n_rows] of both splits."""

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_val: torch.Tensor
    y_val: torch.Tensor
    n_classes: int

    def describe(self) -> str:
        n_train, n_features = self.x_train.shape
        return (
            f"{n_train} training and {len(self.x_val)} validation rows of {n_features} features, "
            f"{self.n_classes} classes"
        )


def load_data(name: str, folder: Path, n_train: int, n_val: int) -> Data:
    """Data set ``name``: ``n_train`` random rows to train on, and at most ``n_val`` others."""
    x, y = _SOURCES[name](folder)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float64), np.unique(y, return_inverse=True)[1][order]
    mean, scale = x[:n_train].mean(0), x[:n_train].std(0)
    x = (x - mean) / np.where(scale > 1e-8, scale, 1.0)
    features = torch.from_numpy(x.astype(np.float32))
    classes = torch.from_numpy(y.astype(np.int64))
    val = slice(n_train, n_train + n_val)
    return Data(
        features[:n_train], classes[:n_train], features[val], classes[val], int(y.max()) + 1
    )


def _digits(folder: Path) -> Arrays:
    return datasets.load_digits(return_X_y=True)


def _breast_cancer(folder: Path) -> Arrays:
    return datasets.load_breast_cancer(return_X_y=True)


def _classification(folder: Path) -> Arrays:
    return datasets.make_classification(
        n_samples=2400, n_features=30, n_informative=12, n_redundant=6, n_classes=6,
        n_clusters_per_class=2, flip_y=0.03, random_state=0,
    )  # fmt: skip


def _quantiles(folder: Path) -> Arrays:
    """Five shells around the origin of ten dimensions."""
    return datasets.make_gaussian_quantiles(
        n_samples=2400, n_features=10, n_classes=5, random_state=0
    )


def _sms_spam(folder: Path) -> Arrays:
    with (folder / "sms_spam" / "spam.csv").open(encoding="latin-1", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return _word_features([row[1] for row in rows]), np.array([row[0] for row in rows])


def _banking(folder: Path) -> Arrays:
    """The 20 most frequent intents."""
    with (folder / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    names, counts = np.unique([label for _, label in rows], return_counts=True)
    kept = set(names[np.argsort(-counts, kind="stable")[:20]])
    rows = [row for row in rows if row[1] in kept]
    return _word_features([text for text, _ in rows]), np.array([label for _, label in rows])


def _word_features(texts: list[str]) -> np.ndarray:
    words = TfidfVectorizer(min_df=3, sublinear_tf=True).fit_transform(texts)
    return TruncatedSVD(60, random_state=0).fit_transform(words)


def _sign_digits(folder: Path) -> Arrays:
    """Photographs of hands, in grey and 16 × 16 pixels."""
    pictures, labels = [], []
    with tarfile.open(folder / "sign_digits.tar.gz") as archive:
        for member in sorted(archive, key=lambda member: member.name):
            if member.isfile() and member.name.lower().endswith(".jpg"):
                file = archive.extractfile(member)
                assert file is not None, member.name
                picture = Image.open(io.BytesIO(file.read())).convert("L").resize((16, 16))
                pictures.append(np.asarray(picture).ravel())
                labels.append(member.name.split("/")[-2])
    return np.stack(pictures), np.array(labels)


def _fashion_features(folder: Path) -> Arrays:
    """What a ResNet-20 that was trained on CIFAR-10 makes of 4,000 pictures of Fashion-MNIST."""
    raw = folder / "fashion_mnist"
    with gzip.open(raw / "train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)[:4000]
    with gzip.open(raw / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)[:4000]
    weights = folder / "weights" / "cifar10_resnet20" / "resnet20-12fca82f.th"
    return resnet20_features(images, weights), labels


_SOURCES: dict[str, Callable[[Path], Arrays]] = {
    "digits": _digits,
    "breast_cancer": _breast_cancer,
    "classification": _classification,
    "quantiles": _quantiles,
    "sms_spam": _sms_spam,
    "banking": _banking,
    "sign_digits": _sign_digits,
    "fashion_features": _fashion_features,
}
