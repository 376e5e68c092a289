"""Configurations: strict, complete, and clear about what is wrong."""

from __future__ import annotations

import json

import pytest

from trainables.config import check_config, parse_setting
from trainables.errors import InputError
from trainables.tasks.image_classification import ImageClassificationConfig
from trainables.tasks.text_classification import TextClassificationConfig

VALID = {"data": "digits"}
WRONG = [
    ({"learning_rat": 1}, "unknown setting 'learning_rat'; valid: learning_rate,"),
    ({"learning_rate": 0.0}, "learning_rate = 0.0: must be greater than 0"),
    ({"learning_rate": "1e-4"}, "learning_rate = '1e-4': must be a valid number"),
    ({"learning_rate": float("nan")}, "learning_rate = nan: must be a finite number"),
    ({"batch_size": 1.5}, "batch_size = 1.5: must be a valid integer"),
    ({"batch_size": True}, "batch_size = True: must be a valid integer"),
    ({"optimizer": "adam"}, "optimizer = 'adam': must be one of adamw, sgd"),
    ({"monitor": "val_acuracy"}, "unknown metric 'val_acuracy'; valid: val_accuracy,"),
    ({"freezing": "first_k"}, "frozen_blocks is missing"),
    ({"frozen_blocks": 2}, "only freezing=first_k uses it, and freezing is none"),
    (
        {"freezing": "gradual", "head_epochs": 2},
        "head_epochs = 2: only freezing=lp_ft uses it, and freezing is gradual",
    ),
    ({"freezing": "only_k"}, "trained_block is missing: freezing=only_k needs it"),
    ({"freezing": "head", "lora_rank": 4}, "lora_rank = 4: only freezing=lora uses it"),
    ({"freezing": "lora", "lora_scale": 0.0}, "lora_scale = 0.0: must be greater than 0"),
    ({"freezing": "lp_ft", "head_epochs": 0}, "head_epochs = 0: must be"),
    ({"val_fraction": 0.6, "test_fraction": 0.4}, "must be less than 1"),
    ({"val_fraction": 0.0}, "val_fraction = 0"),
    ({"batch_size": 8, "micro_batch_size": 16}, "must be at most batch_size = 8"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(InputError) as caught:
        check_config({**VALID, **values}, ImageClassificationConfig)
    assert message in str(caught.value)


def test_everything_wrong_is_told_at_once():
    with pytest.raises(InputError) as caught:
        check_config({"data": "x", "epochs": 0, "dropout": 1.0}, ImageClassificationConfig)
    assert "epochs = 0" in str(caught.value)
    assert "dropout = 1.0" in str(caught.value)


def test_what_is_required_is_said():
    with pytest.raises(InputError, match="data is missing"):
        check_config({}, ImageClassificationConfig)


@pytest.mark.parametrize("config_type", [ImageClassificationConfig, TextClassificationConfig])
def test_a_configuration_survives_json(config_type):
    config = check_config({"data": "x", "freezing": "first_k", "frozen_blocks": 2}, config_type)
    again = json.loads(json.dumps(config.model_dump()))
    assert check_config(again, config_type) == config


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("epochs", "12", 12),
        ("freezing", "none", "none"),
        ("dropout", "none", None),
        ("dropout", "0.5", 0.5),
        ("weights", "none", "none"),
        ("data", "007", "007"),
    ],
)
def test_the_command_line_is_typed(name, text, value):
    parsed = parse_setting(name, text, ImageClassificationConfig)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("epochs", "1e1x", "epochs = '1e1x': must be a valid integer"),
        ("epochs", "2.5", "epochs = '2.5': must be a valid integer"),
        ("epochs", "-3", "epochs = '-3': must be greater than or equal to 1"),
        ("learning_rate", "fast", "learning_rate = 'fast': must be a valid number"),
        ("learning_rate", "inf", "learning_rate = 'inf': must be a finite number"),
        ("precision", "fp8", "precision = 'fp8': must be one of fp32, fp16, bf16"),
        ("epoch", "3", "unknown setting 'epoch'; valid: epochs,"),
    ],
)
def test_a_wrong_setting_is_explained(name, text, message):
    with pytest.raises(InputError) as caught:
        parse_setting(name, text, ImageClassificationConfig)
    assert message in str(caught.value)
