"""Images with a number each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from trainables.data.records import number
from trainables.modalities.images import image_data, image_tables
from trainables.modalities.images.image_tables import ImageTableConfig
from trainables.prepared import PreparedData
from trainables.targets.numbers import NUMBERS, NumbersConfig, number_answers
from trainables.task import Task
from trainables.tasks.row import TaskRow


class ImageRegressionConfig(ImageTableConfig, NumbersConfig):
    """Settings of regression on images."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (*ImageTableConfig.DATA_FIELDS, "number_column")


def prepare(config: ImageRegressionConfig, cache_folder: Path) -> PreparedData:
    """The images of each split, and ``label`` float32 [n].

    Raises:
        InputError: the files do not make splits, or all numbers are the same.
    """
    return image_tables.prepare(
        config,
        cache_folder,
        answer="number_column",
        kind=number,
        answers=lambda splits: number_answers(splits, config),
        stratify=False,
    )


def load() -> Task:
    """The task itself; imports torch."""
    from trainables.modalities.images.task import image_task

    return image_task("image_regression", prepare, NUMBERS)


TASK = TaskRow(
    name="image_regression",
    summary="images with a number each, named by a table; any torchvision classification model",
    config_type=ImageRegressionConfig,
    path_fields={"data": (), "weights": ("none", "default")},
    check=partial(image_tables.check, answer="number_column"),
    fetch=image_data.fetch,
    prepare=prepare,
    load=load,
)
