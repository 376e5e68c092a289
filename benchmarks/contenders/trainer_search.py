"""transformers' own search: Trainer.hyperparameter_search on Ray, freezing done in model_init.

    python trainer_search.py '{"configurations": [...], "fixed": {...}, "slots": 2}'

Writes the last epoch's validation accuracy of each configuration to accuracies.json.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


def n_frozen(point: dict[str, Any], n_layers: int, epoch: int) -> int:
    """How many of embeddings, layers and head are frozen in ``epoch``, counted from 0."""
    last = n_layers + 1
    if point["freezing"] == "gradual":
        return max(last - epoch // point["thaw_every_epochs"], 0)
    return {"none": 0, "head": last}.get(point["freezing"], point.get("frozen_blocks"))


def freeze(model: PreTrainedModel, count: int) -> None:
    """Stop the gradient of the lowest ``count`` blocks."""
    for index, block in enumerate([model.bert.embeddings, *model.bert.encoder.layer]):
        block.requires_grad_(index >= count)


class GradualThawing(TrainerCallback):
    """Freezes anew at each epoch, which changes something for gradual thawing only."""

    def __init__(self, points: list[dict[str, Any]]) -> None:
        self.points = points
        self.number = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any, **info: Any) -> None:
        point = self.points[self.number]
        freeze(model, n_frozen(point, model.config.num_hidden_layers, round(state.epoch)))


def read_split(file: Path, tokenizer: Any, labels: dict[str, int], max_tokens: int) -> list[Any]:
    with file.open(newline="", encoding="utf-8") as rows:
        return [
            {
                **tokenizer(row["text"], truncation=True, max_length=max_tokens),
                "label": labels.setdefault(row["label"], len(labels)),
            }
            for row in csv.DictReader(rows)
        ]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    hits = np.argmax(prediction.predictions, axis=1) == prediction.label_ids
    return {"accuracy": float(hits.mean())}


def main() -> None:
    told = json.loads(sys.argv[1])
    fixed, points = told["fixed"], told["configurations"]
    tokenizer = AutoTokenizer.from_pretrained(fixed["model"])
    labels: dict[str, int] = {}
    train, val = (
        read_split(Path(fixed["data"]) / f"{name}.csv", tokenizer, labels, fixed["max_tokens"])
        for name in ("train", "val")
    )
    thawing = GradualThawing(points)

    def model_init(trial: dict[str, Any] | None) -> PreTrainedModel:
        torch.set_num_threads(1)
        thawing.number = 0 if trial is None else trial["number"]
        model = AutoModelForSequenceClassification.from_pretrained(
            fixed["model"], num_labels=len(labels)
        )
        # Trainer gives its optimiser the parameters that have a gradient now.
        last_epoch = fixed["epochs"] - 1
        freeze(model, n_frozen(points[thawing.number], model.config.num_hidden_layers, last_epoch))
        return model

    trainer = Trainer(
        model_init=model_init,
        args=TrainingArguments(
            output_dir=str(Path.cwd() / "trainer"),
            num_train_epochs=fixed["epochs"],
            lr_scheduler_type=fixed["schedule"],
            weight_decay=fixed["weight_decay"],
            max_grad_norm=fixed["gradient_clip_norm"],
            per_device_eval_batch_size=128,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=train,
        eval_dataset=val,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
        callbacks=[thawing],
    )
    ray.init(num_cpus=told["slots"])
    best = trainer.hyperparameter_search(
        backend="ray",
        direction="maximize",
        n_trials=len(points),
        hp_space=lambda _: {
            "number": tune.choice(list(range(len(points)))),
            "learning_rate": tune.uniform(0.0, 1.0),
            "per_device_train_batch_size": tune.choice([16, 32, 64]),
        },
        compute_objective=lambda metrics: metrics["eval_accuracy"],
        search_alg=BasicVariantGenerator(
            points_to_evaluate=[
                {
                    "number": number,
                    "learning_rate": point["learning_rate"],
                    "per_device_train_batch_size": point["batch_size"],
                }
                for number, point in enumerate(points)
            ]
        ),
        resources_per_trial={"cpu": 1},
        storage_path=str(Path.cwd() / "ray_results"),
        verbose=0,
    )
    trials = best.run_summary.trials
    if any(trial.status != "TERMINATED" for trial in trials):
        raise RuntimeError("a trial failed")
    accuracies = {t.config["number"]: t.last_result["eval_accuracy"] for t in trials}
    values = [accuracies[number] for number in sorted(accuracies)]
    Path("accuracies.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main()
