"""Texts to token ids: one tokenizer per prepared data set, kept beside it. Imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables.errors import InputError, first_line

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_FILE = "tokenizer.json"
_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_END = "<|endoftext|>"  # as GPT-2 calls it
_ALPHABET_SIZE = 1000  # as BERT's own vocabulary builder limits it; rarer characters are unknown


def train_wordpiece(texts: Sequence[str], n_tokens: int, assets: Path) -> None:
    """Learn a lower-casing WordPiece vocabulary of at most ``n_tokens`` and save it to ``assets``.

    The same texts always give the same file, which transformers' AutoTokenizer loads too.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import WordPieceTrainer

    learner = Tokenizer(models.WordPiece(unk_token=_SPECIAL["unk"]))
    learner.normalizer = normalizers.BertNormalizer(lowercase=True)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(learner.normalizer.normalize_str(text))
    known = (c for c in sorted(counts, key=lambda c: (-counts[c], c)) if not c.isspace())
    alphabet = sorted(list(known)[:_ALPHABET_SIZE])
    # The trainer numbers "##a" in the order of a hash map seeded anew each time, and merges with
    # equal counts are ordered by these numbers: naming them all beforehand settles both.
    first = [*_SPECIAL.values(), *alphabet, *(f"##{c}" for c in alphabet)]
    trainer = WordPieceTrainer(
        vocab_size=max(n_tokens, len(first)),
        show_progress=False,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=first,
    )
    learner.train_from_iterator(texts, trainer)

    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token=_SPECIAL["unk"]))
    tokenizer.normalizer = learner.normalizer
    tokenizer.pre_tokenizer = learner.pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(_SPECIAL.values()))
    tokenizer.post_processor = processors.BertProcessing(
        *((_SPECIAL[name], list(_SPECIAL).index(name)) for name in ("sep", "cls"))
    )
    tokenizer.save(str(assets / _FILE))
    _name_special_tokens(assets, **_SPECIAL)


def train_byte_pairs(texts: Sequence[str], n_tokens: int, assets: Path) -> None:
    """Learn byte pairs, at most ``n_tokens`` tokens as GPT-2's, and save them to ``assets``."""
    from tokenizers import ByteLevelBPETokenizer

    learner: Any = ByteLevelBPETokenizer()
    learner.train_from_iterator(
        texts, n_tokens, min_frequency=2, show_progress=False, special_tokens=[_END]
    )
    learner.save(str(assets / _FILE))
    _name_special_tokens(assets, eos=_END, bos=_END, pad=_END)


def _name_special_tokens(assets: Path, **tokens: str) -> None:
    """Tell transformers' AutoTokenizer what each special token is for."""
    settings = {f"{name}_token": token for name, token in tokens.items()}
    (assets / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **settings}, indent=1)
    )


def save_tokenizer(model_folder: Path, assets: Path, model: str) -> tuple[int, int]:
    """Copy a pretrained model's tokenizer to ``assets``.

    Returns:
        The ids of the tokens that pad and that end a text. A tokenizer without the first pads with
        the second, and the other way round: what pads is masked.

    Raises:
        InputError: it can not be loaded, runs code of its own, or has neither.
    """
    # The class named in the model's files decides how they are read, so transformers must do it.
    from transformers import AutoTokenizer

    from trainables.modalities.texts.pretrained import quiet

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                model_folder, local_files_only=True, trust_remote_code=False
            )
            tokenizer.save_pretrained(assets)
    except Exception as error:  # damaged files raise nearly anything
        reason = first_line(error)
        raise InputError(f"model = {model!r}: its tokenizer can not be loaded: {reason}") from error
    if not (assets / _FILE).exists():
        raise InputError(f"model = {model!r}: its tokenizer has no fast version ({_FILE})")
    known = [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id]
    pad, end, sep = (None if token is None else int(token) for token in known)
    end = sep if end is None else end
    if pad is None and end is None:
        raise InputError(f"model = {model!r}: its tokenizer has neither a padding nor an end token")
    return (pad if pad is not None else end), (end if end is not None else pad)  # type: ignore[return-value]


def vocabulary_size(assets: Path) -> int:
    """Number of token ids, special ones included."""
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(assets / _FILE)).get_vocab_size())


def tokenise(
    texts: Sequence[str], assets: Path, max_tokens: int, pad_id: int
) -> tuple[dict[str, np.ndarray], int]:
    """Token ids of ``texts``, special tokens included, cut at ``max_tokens``.

    Returns:
        ``input_ids`` int32 [n, longest] padded with ``pad_id`` behind, ``length`` int32 [n]; and
        how many texts were cut.
    """
    encodings = _encodings(texts, assets, max_tokens)
    n_cut = sum(bool(encoding.overflowing) for encoding in encodings)
    return padded([each.ids for each in encodings], pad_id), n_cut


def _encodings(texts: Sequence[str], assets: Path, max_tokens: int | None) -> list[Encoding]:
    path = (assets / _FILE).resolve()
    tokenizer = _load(str(path), path.stat().st_mtime_ns, max_tokens)
    found: list[Encoding] = tokenizer.encode_batch(list(texts))
    return found


def padded(rows: Sequence[Any], pad_id: int, at_least: int = 1) -> dict[str, np.ndarray]:
    """Token ids in one array, padded behind to ``at_least`` positions."""
    # A tokenizer without special tokens may leave nothing of a text; attention needs one position.
    lengths = np.array([max(len(ids), 1) for ids in rows], np.int32)
    input_ids = np.full((len(rows), int(lengths.max(initial=at_least))), pad_id, np.int32)
    for row, ids in zip(input_ids, rows, strict=True):
        row[: len(ids)] = ids
    return {"input_ids": input_ids, "length": lengths}


def tokens_and_bytes(
    texts: Sequence[str], assets: Path, end_id: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The token ids of ``texts`` one after the other, and how many bytes of text each stands for.

    Special tokens stand for none. Characters that no token holds count with the next one that does,
    at a text's end with the last: so the bytes of all tokens are those of all texts.

    Args:
        end_id: follows each text to which the tokenizer adds no special token; None: none does.
    """
    ids: list[int] = []
    n_bytes: list[int] = []
    for text, encoding in zip(texts, _encodings(texts, assets, None), strict=True):
        position, last = 0, -1
        for token, (_, end), special in zip(
            encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True
        ):
            new = max(end, position) if not special else position
            last = last if special else len(ids)
            ids.append(token)
            n_bytes.append(len(text[position:new].encode()))
            position = new
        if last >= 0:
            n_bytes[last] += len(text[position:].encode())
        if end_id is not None and not any(encoding.special_tokens_mask):
            ids.append(end_id)
            n_bytes.append(0)
    return np.array(ids, np.int32), np.array(n_bytes, np.int32)


def tokenise_words(
    texts: Sequence[str],
    spans: Sequence[Sequence[tuple[int, int]]],
    assets: Path,
    max_tokens: int,
    pad_id: int,
) -> tuple[dict[str, np.ndarray], list[list[int | None]]]:
    """The arrays that ``tokenise`` gives, and the first token of each word.

    A word has none, None, where it lies behind ``max_tokens``, where the tokenizer makes nothing of
    it (a zero-width space, say), or where its only token began with an earlier word.

    Args:
        spans: of the words of each text: first character, and behind the last. Found by its place
            in the text, a word needs no tokenizer that is made for words.
    """
    encodings = _encodings(texts, assets, max_tokens)
    firsts = [_first_tokens(encoding, own) for encoding, own in zip(encodings, spans, strict=True)]
    return padded([each.ids for each in encodings], pad_id), firsts


def _first_tokens(encoding: Encoding, spans: Sequence[tuple[int, int]]) -> list[int | None]:
    found: list[int | None] = [None] * len(spans)
    token, offsets = 0, encoding.offsets
    for word, (start, end) in enumerate(spans):
        # A token may begin with the space before its word; special ones have no extent.
        while token < len(offsets) and (
            offsets[token][1] <= start or encoding.special_tokens_mask[token]
        ):
            token += 1
        if token < len(offsets) and offsets[token][0] < end:
            found[word] = token
            token += 1
    return found


@lru_cache(maxsize=8)  # a few megabytes each; one per data set in use
def _load(path: str, _mtime_ns: int, max_tokens: int | None) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_tokens)
    return tokenizer
