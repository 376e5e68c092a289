"""Durations, sizes and shares of GPUs as people write them."""

from __future__ import annotations

import re

from tuning.record.resources import Gpus

_SECONDS = {"s": 1, "m": 60, "h": 3600}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def seconds(text: str) -> float:
    """A duration such as 90, 90s, 10m or 1.5h in seconds.

    Raises:
        ValueError: it is none; says what it must be.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in _SECONDS else (text, "s")
    try:
        return float(number) * _SECONDS[unit]
    except ValueError:
        raise ValueError("must be a duration such as 90s, 10m or 1.5h") from None


def n_bytes(text: str, others: str = "") -> int:
    """A size such as 500MB or 20GB in bytes.

    Args:
        others: what would be valid as well, for the message.

    Raises:
        ValueError: it is none; says what it must be.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)", text, re.IGNORECASE)
    if not found:
        raise ValueError(f"must be {others}a size such as 500MB or 20GB")
    return int(float(found[1]) * _BYTES[found[2].upper()])


def cache_bytes(text: str) -> int | None:
    """As ``n_bytes``; also None for ``auto`` and 0 for ``off``."""
    if text in ("auto", "off"):
        return None if text == "auto" else 0
    return n_bytes(text, "auto, off, or ")


def gpus(text: str) -> Gpus:
    """A number of GPUs, or auto.

    Raises:
        ValueError: it is neither; says what it must be.
    """
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number, such as 0.5, or auto") from None
