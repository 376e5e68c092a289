"""A setting's type in a user's words, such as ``whole number, at least 1``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.config import TrainingConfig

_KINDS = {"integer": "whole number", "number": "number", "string": "text", "null": "none"}


def readable_types(config_type: type[TrainingConfig]) -> dict[str, str]:
    """Each setting of a configuration -> its type in words."""
    properties = config_type.model_json_schema()["properties"]
    return {name: _in_words(schema) for name, schema in properties.items()}


def _in_words(schema: Mapping[str, Any]) -> str:
    """One type of a JSON schema in words.

    Raises:
        KeyError: it is of a kind that no setting had so far; give it words here.
    """
    if "anyOf" in schema:
        return ", or ".join(map(_in_words, schema["anyOf"]))
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return str(schema["const"])
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "array":
        return f"list of: {_in_words(schema['items'])}"
    return _KINDS[schema["type"]] + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    """The limits of a number, to follow its kind; empty where it has none."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and (high is not None or below is not None):
        return (
            f" from {low:g} to {high:g}" if below is None else f" from {low:g} to below {below:g}"
        )
    parts = (
        ("at least", low), ("above", above), ("at most", high), ("below", below),
    )  # fmt: skip
    limits = [f"{words} {limit:g}" for words, limit in parts if limit is not None]
    return f", {', '.join(limits)}" if limits else ""
