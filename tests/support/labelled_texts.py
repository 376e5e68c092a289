"""Files of labelled texts for tests, and the configuration of a text classification over them."""

from __future__ import annotations

from pathlib import Path

from trainables.config import check_config
from trainables.tasks.text_classification import TextClassificationConfig

BODY = "".join(f"number {i} is good,pos\nthing {i} is bad,neg\n" for i in range(20))
PLAIN = "text,label\n" + BODY


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def config(data: Path, **values: object) -> TextClassificationConfig:
    return check_config(
        {"data": str(data), "model": "scratch:bert-tiny", **values}, TextClassificationConfig
    )
