"""Images with a number each."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from trainables.modalities.images import image_data, image_tables
from trainables.modalities.images.image_tables import ImageTableConfig
from trainables.targets.numbers import NUMBER_COLUMN, NUMBERS, NumbersConfig
from trainables.task import Task
from trainables.tasks.row import TaskRow


class ImageRegressionConfig(ImageTableConfig, NumbersConfig):
    """Settings of regression on images."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (*ImageTableConfig.DATA_FIELDS, "number_column")


def load() -> Task:
    """The task itself; imports torch."""
    from trainables.modalities.images.task import image_task

    return image_task("image_regression", TASK.prepare, NUMBERS)


TASK = TaskRow(
    name="image_regression",
    summary="images with a number each, named by a table; any torchvision classification model",
    config_type=ImageRegressionConfig,
    path_fields={"data": (), "weights": ("none", "default")},
    check=partial(image_tables.check, answer=NUMBER_COLUMN),
    fetch=image_data.fetch,
    prepare=partial(image_tables.prepare, answer=NUMBER_COLUMN),
    load=load,
)
