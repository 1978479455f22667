"""Read a sentencepiece ``tokenizer.model``: its pieces, and the merges that give the same segmentation.

A small reader of protobuf's wire format, because sentencepiece's generated classes need a protobuf that kfp excludes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_BPE: Final = 2
_REMEDY: Final = "give a checkpoint with the tokenizer InternVL2 was published with"


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its position."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePiece:
    """A byte-pair model: its pieces, whether text gets a space in front, whether unknown characters become bytes."""

    pieces: list[Piece]
    dummy_prefix: bool
    byte_fallback: bool

    @property
    def unknown(self) -> str:
        """The text of the piece that stands for what has no other."""
        return next(piece.text for piece in self.pieces if piece.kind == UNKNOWN)


def read_model(path: Path) -> SentencePiece:
    """Parse the file; raise UserError when it is broken, not byte-pair, or normalises text in ways not carried over."""
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = [_piece(dict(_fields(value))) for number, value in fields if number == 1]
        trainer = _merged(fields, 2)
        normalizer = _merged(fields, 3)
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise UserError(
            f"is not a sentencepiece model ({error})", place=str(path), remedy="download it again"
        ) from None
    if not any(piece.kind == UNKNOWN for piece in pieces):
        raise UserError("is not a sentencepiece model (no unknown piece)", place=str(path), remedy="download it again")
    refused = {
        "a unigram model": trainer.get(3, 1) != _BPE,
        "treat_whitespace_as_suffix": bool(trainer.get(24, 0)),
        "a character map": bool(normalizer.get(2, b"")),
        "remove_extra_whitespaces": bool(normalizer.get(4, 1)),
        "escape_whitespaces off": not normalizer.get(5, 1),
    }
    if found := [what for what, is_so in refused.items() if is_so]:
        raise UserError(f"uses {', '.join(found)}, which is not carried over", place=str(path), remedy=_REMEDY)
    return SentencePiece(pieces, bool(normalizer.get(3, 1)), bool(trainer.get(35, 0)))


def merges(pieces: list[Piece], kept: set[str]) -> list[tuple[str, str]]:
    """List the pairs to merge, best first: every way to make a piece of ``kept`` out of two others.

    Sentencepiece merges the neighbours that make the best-scored piece; a rank per pair says the same.
    """
    ids = {piece.text: index for index, piece in enumerate(pieces) if piece.text in kept}
    found: list[tuple[float, int, int, str, str]] = []
    for piece in pieces:
        if piece.text in ids:
            halves = ((piece.text[:cut], piece.text[cut:]) for cut in range(1, len(piece.text)))
            found += [(-piece.score, ids[a], ids[b], a, b) for a, b in halves if a in ids and b in ids]
    return [(left, right) for *_, left, right in sorted(found)]


def _piece(fields: dict[int, Any]) -> Piece:
    score = struct.unpack("<f", fields[2])[0] if 2 in fields else 0.0
    return Piece(fields[1].decode("utf-8"), score, fields.get(3, NORMAL))


def _merged(fields: list[tuple[int, Any]], number: int) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for key, value in fields:
        if key == number:
            found.update(_fields(value))
    return found


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of one protobuf message: ints for varints, bytes for the rest."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("cut short")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
