"""The next token of a text: settings, loss, perplexity, and how texts go on.

The labels are the token ids themselves. The module imports torch only where a function needs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from pydantic import Field

from trainables.config import TrainingConfig
from trainables.metrics import Direction
from trainables.prepared import Batch, DataInfo, Split
from trainables.targets.target import Target
from trainables.task import Evaluation, Trained

if TYPE_CHECKING:
    from torch import Tensor

_N_SAMPLES, _N_PROMPT_TOKENS = 5, 16  # of the texts that an evaluation lets the model go on with


class NextTokensConfig(TrainingConfig):
    """Settings of tasks that predict each next token."""

    METRICS: ClassVar[dict[str, Direction]] = {
        "val_loss": "min",
        "val_perplexity": "min",
        "val_bits_per_byte": "min",
    }

    monitor: str = Field(
        default="val_loss", description="metric that says which epoch of a training was best"
    )
    answer_tokens: int = Field(
        default=64, ge=1, description="tokens that a trained model adds to a text at most"
    )


def loss(logits: Tensor, batch: Batch, config: NextTokensConfig) -> Tensor:
    """Cross-entropy in nats, summed over the tokens that are predicted: all but the first.

    Args:
        logits: [n, positions, vocabulary]; half precision is widened first.
        batch: ``input_ids`` [n, at least as many positions], ``length`` [n].
    """
    import torch
    from torch.nn.functional import cross_entropy

    n_positions = logits.shape[1]
    labels = batch["input_ids"][:, 1:n_positions].long()
    positions = torch.arange(1, n_positions, device=labels.device)
    labels = labels.masked_fill(positions >= batch["length"][:, None], -100)
    return cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
    )


def n_predicted(split: Split) -> np.ndarray:
    """How many tokens of each sample are predicted [n]."""
    return np.maximum(np.asarray(split.arrays["length"]).astype(np.int64) - 1, 0)


def evaluation_batch(config: Any) -> int:
    """Blocks measured at once: 4,096 tokens, of which GPT-2's logits alone take 0.8 GB."""
    return max(1, 4096 // int(config.max_tokens))


class TextMeter:
    """Counts tokens and bytes, and remembers how some texts begin."""

    def __init__(self, info: DataInfo) -> None:
        self._sums = {"tokens": 0, "bytes": 0}
        self.beginnings: list[list[int]] = []  # token ids

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Add a batch: ``input_ids`` [n, positions], ``length`` and ``n_bytes`` [n]."""
        self._sums["tokens"] += int((batch["length"] - 1).clamp(min=0).sum())
        self._sums["bytes"] += int(batch["n_bytes"].sum())
        wanted = max(_N_SAMPLES - len(self.beginnings), 0)
        for ids, length in zip(batch["input_ids"][:wanted], batch["length"], strict=False):
            self.beginnings.append(ids[: min(int(length), _N_PROMPT_TOKENS)].tolist())

    def state(self) -> tuple[dict[str, int], list[list[int]]]:
        """Sums, and beginnings."""
        return self._sums, self.beginnings

    def merge(self, states: Sequence[tuple[Mapping[str, int], list[list[int]]]]) -> None:
        """Take what all workers counted together."""
        self._sums = {name: sum(sums[name] for sums, _ in states) for name in self._sums}
        self.beginnings = [each for _, own in states for each in own][:_N_SAMPLES]

    def compute(self, loss: float) -> dict[str, float]:
        """Perplexity, and bits for each byte of text, which compare between tokenizers."""
        bits = loss * self._sums["tokens"] / math.log(2)
        return {
            "perplexity": math.exp(min(loss, 700.0)),  # beyond, a float is infinite
            "bits_per_byte": bits / max(self._sums["bytes"], 1),
        }


def go_on(trained: Trained, beginnings: Sequence[Sequence[int]]) -> list[tuple[str, str]]:
    """Each beginning and what the model writes after it, always taking the likeliest token.

    It stops after ``answer_tokens``, at ``max_tokens`` in all, or where the text ends. Some models
    begin a new text instead of ending the old one; that ends it, too.
    """
    import torch
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        trained.assets, local_files_only=True, trust_remote_code=False
    )
    details, model = trained.info.details, cast(Any, trained.model)
    ends = {details["end_id"], tokenizer.eos_token_id, tokenizer.bos_token_id} - {None}
    pairs = []
    for ids in beginnings:
        prompt = torch.tensor([list(ids)], device=trained.device)
        room = trained.config.max_tokens - len(ids)
        with torch.inference_mode():
            found = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=max(min(trained.config.answer_tokens, room), 1),
                do_sample=False,
                use_cache=True,
                pad_token_id=details["pad_id"],
                eos_token_id=sorted(ends),
            )
        # Alone, the tokens that were added would lose the space before them in some tokenizers.
        before, whole = (
            str(tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in (ids, found[0])
        )
        pairs.append((before, whole.removeprefix(before)))
    return pairs


def generate(trained: Trained, batch: Batch) -> list[str]:
    """How each text of a request goes on."""
    rows = zip(batch["input_ids"], batch["length"], strict=True)
    pairs = go_on(trained, [ids[: int(length)].tolist() for ids, length in rows])
    return [added for _, added in pairs]


def decode(
    texts: Sequence[str], batch: Batch, items: Sequence[Any], trained: Trained
) -> list[dict[str, Any]]:
    """What ``generate`` gave, a row for each item."""
    return [{"text": text} for text in texts]


def artifacts(evaluation: Evaluation, trained: Trained) -> dict[str, Any]:
    """How the model goes on with some beginnings of the split."""
    parts = [f"{before}⟶{added}" for before, added in go_on(trained, evaluation.meter.beginnings)]
    return {"samples.txt": "\n\n---\n\n".join(parts)}


NEXT_TOKENS = Target(
    loss=loss,
    meter=TextMeter,
    decode=decode,
    answer={"text": "how it goes on"},
    artifacts=artifacts,
)
