"""Small generated texts: customers' questions of several intents, as CSV files with splits."""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

_OPENINGS = ("", "hello, ", "please help: ", "hi there, ", "sorry to bother you, ", "quick one: ")
_CLOSINGS = ("", " thanks", " what can I do?", " it is urgent", " I am abroad", " since monday")
_THINGS = ("card", "new card", "debit card", "credit card", "second card")
_INTENTS = {
    "lost": ("I can not find my {}", "my {} is gone", "I left my {} on the bus"),
    "stolen": ("someone took my {}", "my {} was stolen", "a thief has my {}"),
    "arrival": ("my {} has not come yet", "when will my {} arrive", "I still wait for my {}"),
    "activation": ("how do I activate my {}", "my {} is not active", "switch on my {}"),
    "pin": ("I forgot the pin of my {}", "change the pin of my {}", "my {} refuses the pin"),
    "fee": ("why was I charged for my {}", "what does my {} cost", "there is a fee on my {}"),
    "limit": ("raise the limit of my {}", "how much can I spend with my {}", "limit of my {}"),
    "refund": ("I want my money back on my {}", "refund to my {}", "my {} shows no refund"),
    "cash": ("the machine gave no cash for my {}", "get cash with my {}", "my {} at the atm"),
    "broken": ("my {} is bent", "the chip of my {} does not work", "my {} is cracked"),
}


def texts(seed: int) -> list[tuple[str, str]]:
    """Every (text, intent) that the words above make, in random order."""
    found = list(_combinations())
    random.Random(seed).shuffle(found)
    return found


def _combinations() -> Iterator[tuple[str, str]]:
    for intent, sentences in _INTENTS.items():
        for parts in itertools.product(_OPENINGS, sentences, _THINGS, _CLOSINGS):
            opening, sentence, thing, closing = parts
            yield f"{opening}{sentence.format(thing)}{closing}", intent


def write_csv(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Columns ``text`` and ``label``."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
