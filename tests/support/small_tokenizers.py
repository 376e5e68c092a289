"""Tokenizers as those of BERT, GPT-2, RoBERTa, XLM-R and Llama, small; and models with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer

CORPUS = [
    "the quick brown fox jumps over the lazy dog and New York unbelievably tokenization",
    "Zürich café naïve 東京 it's ... !? @user #topic 3.14 e-mail co-operate",
]


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(CORPUS, WordPieceTrainer(vocab_size=90, special_tokens=special))
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def byte_level(trim_offsets: bool, add_prefix_space: bool) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS * 3,
        BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"]),
    )
    if trim_offsets:
        made.post_processor = processors.RobertaProcessing(
            ("</s>", 1), ("<s>", 0), trim_offsets=True, add_prefix_space=add_prefix_space
        )
    else:
        made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def sentencepiece() -> Tokenizer:
    """As XLM-R's and T5's: pieces that begin with ▁, which stands for a space."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        CORPUS * 3,
        UnigramTrainer(vocab_size=120, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>"),
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return made


def llama() -> Tokenizer:
    """As Llama's: the ▁ is put in by the normaliser, and unknown characters fall back to bytes."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<s>", "</s>"]
    made.train_from_iterator(CORPUS, BpeTrainer(vocab_size=150, special_tokens=special))
    learned = json.loads(made.to_str())["model"]
    vocabulary = dict(learned["vocab"])
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = [tuple(merge) for merge in learned["merges"]]
    made.model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return made


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bert": wordpiece,
    "gpt2": lambda: byte_level(trim_offsets=False, add_prefix_space=False),
    "roberta": lambda: byte_level(trim_offsets=True, add_prefix_space=True),
    "sentencepiece": sentencepiece,
    "llama": llama,
}


_SHAPE = {"vocab_size": 420, "hidden_size": 16, "intermediate_size": 32}
_LLAMA = {
    **{**_SHAPE, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
_GPT2 = {
    **{"vocab_size": 420, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64},
    **{"bos_token_id": 1, "eos_token_id": 1},
}
# name -> class of the model, its configuration, tokenizer, special tokens
CAUSAL: dict[str, tuple[str, dict[str, Any], str, dict[str, str]]] = {
    "llama": (
        "LlamaForCausalLM",
        {**_LLAMA, "tie_word_embeddings": True},
        "llama",
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"},
    ),
    "llama, head not tied": (
        "LlamaForCausalLM",
        {**_LLAMA, "tie_word_embeddings": False},
        "llama",
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"},
    ),
    "gpt2": ("GPT2LMHeadModel", _GPT2, "gpt2", {"bos_token": "</s>", "eos_token": "</s>"}),
}


def save_causal(name: str, folder: Path) -> Any:
    """A model of language with random weights, in ``folder`` with its tokenizer."""
    model_class, values, tokenizer, special = CAUSAL[name]
    torch.manual_seed(0)
    made = getattr(transformers, model_class)
    model = made(made.config_class(**values)).eval()
    # Larger weights than those that training begins with, so that tokens differ in probability.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZERS[tokenizer](), **special
    ).save_pretrained(folder)
    return model
