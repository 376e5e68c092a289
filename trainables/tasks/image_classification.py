"""Images of one class each."""

from __future__ import annotations

from pydantic import Field

from trainables.modalities.images import image_data
from trainables.modalities.images.config import ImageConfig
from trainables.targets.classes import CLASSES, ClassesConfig
from trainables.task import Task
from trainables.tasks.row import TaskRow


class ImageClassificationConfig(ImageConfig, ClassesConfig):
    """Settings of image classification."""

    data: str = Field(
        description="digits, mnist, fashion_mnist, or a folder of class folders or of IDX files"
    )


def load() -> Task:
    """The task itself; imports torch."""
    from trainables.modalities.images.task import image_task

    return image_task("image_classification", TASK.prepare, CLASSES)


TASK = TaskRow(
    name="image_classification",
    summary="images of one class each; any torchvision or timm model",
    config_type=ImageClassificationConfig,
    path_fields={"data": image_data.KNOWN_DATA, "weights": ("none", "default")},
    check=image_data.check,
    fetch=image_data.fetch,
    prepare=image_data.prepare,
    load=load,
)
