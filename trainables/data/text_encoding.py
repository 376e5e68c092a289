"""Bytes to text, in whatever encoding people have."""

from __future__ import annotations

import codecs

from trainables.errors import InputError

_BOMS = (  # UTF-32's little-endian mark begins with UTF-16's, so it is asked first
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_TEXT = {b"PK\x03\x04": "a zip or Excel file", b"\x1f\x8b": "gzip", b"PAR1": "Parquet"}


def decode(raw: bytes, name: str, errors: str = "strict") -> tuple[str, str]:
    """``raw`` as text, and the encoding it was taken for.

    Raises:
        InputError: it is not text, or its byte order mark promises what the bytes do not keep.
    """
    kind = next((kind for magic, kind in _NOT_TEXT.items() if raw.startswith(magic)), None)
    if kind is not None:
        raise InputError(f"data: {name} is {kind}, not text; export it as CSV in UTF-8")
    marked = next((encoding for bom, encoding in _BOMS if raw.startswith(bom)), None)
    encoding = marked or _utf16_without_mark(raw[:4096])
    try:
        text = raw.decode(encoding or "utf-8", errors if encoding else "strict")
        encoding = encoding or "utf-8"
    except UnicodeDecodeError as error:
        if encoding is not None and encoding != "utf-8-sig":
            raise InputError(
                f"data: {name} can not be read as {encoding}: {error.reason}"
            ) from None
        text, encoding = _decode_legacy(raw)
    head = text[:65536]
    if sum(c < " " and c not in "\t\n\r\f\x1b" for c in head) > len(head) / 20:
        raise InputError(f"data: {name} is not text; save it in UTF-8, a spreadsheet as CSV")
    return text, encoding


def _utf16_without_mark(head: bytes) -> str | None:
    # Mostly-Latin UTF-16 has a zero in every other byte; as UTF-8 it would decode, to nonsense.
    half = len(head) // 2
    zeros = head[0::2].count(0), head[1::2].count(0)
    if half and max(zeros) > half / 3 and min(zeros) < half / 20:
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    return None


def _decode_legacy(raw: bytes) -> tuple[str, str]:
    raw = raw.removeprefix(codecs.BOM_UTF8)
    lines = raw.split(b"\n")
    foreign = [line for line in lines if not line.isascii()]
    if sum(_is_utf8(line) for line in foreign) > len(foreign) / 2:
        # Several sources pasted together. Letters of another encoding hardly ever form valid UTF-8.
        mixed = (
            line.decode() if _is_utf8(line) else line.decode("cp1252", "replace") for line in lines
        )
        return "\n".join(mixed), "utf-8, some lines cp1252"
    encoding = _guess(b"\n".join(foreign)[:200_000])
    try:
        return raw.decode(encoding), encoding
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace"), "cp1252"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _guess(sample: bytes) -> str:
    import charset_normalizer  # only files that are not Unicode need it

    matches = charset_normalizer.from_bytes(sample, steps=20, chunk_size=1024)
    best = matches.best()
    if best is None:
        return "cp1252"
    # Windows' Western code page is what such files nearly always are, and a few letters hardly tell
    # it from its neighbours: it wins near ties (margins set on samples in nine languages).
    # Turkish differs from it in six letters only, so it is proposed on evidence alone.
    for match in matches:
        near = match.chaos <= best.chaos + 0.03 and match.coherence >= best.coherence - 0.1
        if "cp1252" in match.could_be_from_charset and near and best.encoding != "cp1254":
            return "cp1252"
    return best.encoding


def without_surrogates(text: str) -> str:
    """Half an emoji (a lone surrogate, as JSON can hold) becomes U+FFFD: UTF-8 can not hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
