"""Rebuild the original's slow tokenizer as one ``tokenizer.json`` that gives the same ids.

Covers what the slow classes of transformers 4.37 do: Qwen2's byte-level pairs, InternLM2's and InternLM3's
sentencepiece, and Llama's (Phi-3's) with and without ``legacy``. A sentencepiece ``tokenizer.model`` is read by a small
reader of protobuf's wire format, because sentencepiece's generated classes need a protobuf that kfp excludes.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from emoverse.errors import UserError
from emoverse.models.checkpoint import read_json

IMAGE, IMAGE_START, IMAGE_END, VIDEO = "<IMG_CONTEXT>", "<img>", "</img>", "<video>"
# The pattern that splits text before byte-level pairs are merged: transformers' tokenization_qwen2.py.
_QWEN2: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_FLAGS: Final = ("content", "lstrip", "rstrip", "single_word", "normalized", "special")
_SENTENCEPIECE: Final = ("InternLM2Tokenizer", "InternLM3Tokenizer", "LlamaTokenizer")
_NAMED: Final = ("bos_token", "eos_token", "unk_token", "pad_token")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_BPE: Final = 2
_PUBLISHED_TOKENIZER: Final = "give a checkpoint with the tokenizer InternVL2 was published with"


@dataclass(frozen=True)
class Vocabulary:
    """A rebuilt tokenizer and what tokenizer_config.json has to say beside it."""

    backend: Tokenizer
    named: dict[str, str]
    special: list[str]
    settings: dict[str, Any]

    def id_of(self, token: str) -> int | None:
        """Return a token's id, None when it is not a single token."""
        token_id: int | None = self.backend.token_to_id(token)
        return token_id


@dataclass(frozen=True)
class _Added:
    by_id: dict[int, AddedToken]
    named: dict[str, str]
    config: dict[str, Any]
    saved_by_transformers_5: bool = False

    @property
    def texts(self) -> dict[int, str]:
        return {index: token.content for index, token in self.by_id.items()}


def read_vocabulary(folder: Path, rows: int, *, fast: bool = False) -> Vocabulary:
    """Rebuild the tokenizer of a checkpoint, and give it ``<video>`` as the token after its last row.

    Args:
        folder: The checkpoint.
        rows: The number of rows of the embedding.
        fast: Whether the model was made with tokenizer.json, as native ones are, and not with the slow tokenizer.

    Raises:
        UserError: Files are missing, a token has no row, or the image tokens are missing.
    """
    place = str(folder / "tokenizer_config.json")
    try:
        added = _read_added(folder)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"its tokens cannot be read ({error})", place=place, remedy="download it again") from None
    backend = _build(folder, added, fast=fast or added.saved_by_transformers_5)
    for token in (IMAGE, IMAGE_START, IMAGE_END):
        if backend.token_to_id(token) is None:
            raise UserError(f"{token} is not a token", place=place, remedy="give an InternVL checkpoint's tokenizer")
    last = max(backend.get_vocab(with_added_tokens=True).values())
    # The published native tokenizers know <video>, for which their embedding has no row: it gets one, as elsewhere.
    if last >= rows and backend.token_to_id(VIDEO) != rows:
        problem = f"token {last} ({backend.id_to_token(last)!r}) has no row: the embedding has {rows}"
        remedy = "give the tokenizer and the weights of one and the same checkpoint"
        raise UserError(problem, place=place, remedy=remedy)
    if backend.token_to_id(VIDEO) is None:
        backend = _with_token(backend, VIDEO, rows)
    config = added.config
    kept = {"model_max_length": 8192, "padding_side": "left"}
    special = [token.content for token in added.by_id.values() if token.special]
    special = [text for text in special if text not in added.named.values()]
    return Vocabulary(backend, added.named, special, {key: config.get(key, value) for key, value in kept.items()})


def _build(folder: Path, added: _Added, *, fast: bool) -> Tokenizer:
    try:
        return _choose(folder, added, fast=fast)
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower
        problem = f"its tokenizer files do not fit together ({error})"
        raise UserError(problem, place=str(folder), remedy="download them again") from error


def _choose(folder: Path, added: _Added, *, fast: bool) -> Tokenizer:
    # The original loads the slow classes; a tokenizer.json beside their files is not what the model was trained with.
    kind = str(added.config.get("tokenizer_class", "")).removesuffix("Fast")
    if fast and (folder / "tokenizer.json").is_file():
        return _from_json(folder / "tokenizer.json")
    if kind in _SENTENCEPIECE and (folder / "tokenizer.model").is_file():
        whole = kind == "LlamaTokenizer" and not added.config.get("legacy", True)
        return _sentencepiece(folder / "tokenizer.model", added, whole=whole)
    if kind == "Qwen2Tokenizer" and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _byte_level(folder, added)
    if (folder / "tokenizer.json").is_file():
        return _from_json(folder / "tokenizer.json")
    problem = f"holds no tokenizer files for tokenizer_class {kind!r}"
    remedy = "download them too: tokenizer.model (InternLM2Tokenizer, LlamaTokenizer), vocab.json and merges.txt "
    raise UserError(problem, place=str(folder), remedy=remedy + "(Qwen2Tokenizer), or tokenizer.json (any)")


def _from_json(path: Path) -> Tokenizer:
    backend = Tokenizer.from_file(str(path))
    backend.no_truncation()
    backend.no_padding()
    return backend


def _byte_level(folder: Path, added: _Added) -> Tokenizer:
    vocabulary = dict(read_json(folder / "vocab.json"))
    vocabulary.update({text: index for index, text in added.texts.items()})
    if lost := sorted(set(pre_tokenizers.ByteLevel.alphabet()) - vocabulary.keys()):
        problem = f"{len(lost)} of the 256 bytes have no token"
        raise UserError(problem, place=str(folder / "vocab.json"), remedy="download it again")
    lines = (folder / "merges.txt").read_text("utf-8").split("\n")
    pairs: list[Any] = [tuple(line.split()) for line in lines[lines[0].startswith("#version") :] if line.strip()]
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=pairs, fuse_unk=False, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_QWEN2), behavior="isolated", invert=False)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    _add(tokenizer, added, normalized=None)
    return tokenizer


def _sentencepiece(path: Path, added: _Added, *, whole: bool) -> Tokenizer:
    """Build pairs over sentencepiece's pieces.

    The slow tokenizers cut the text at added tokens and give each stretch to sentencepiece, which puts its dummy prefix
    before every one of them. ``whole`` is Llama's other way (``legacy: false``): one prefix before the whole text, none
    when it begins with a special token, and a literal ``▁`` counts as a space.
    """
    model = read_sentencepiece(path)
    words = [added.texts.get(index, piece.text) for index, piece in enumerate(model.pieces)]
    vocabulary = {word: index for index, word in enumerate(words)}
    vocabulary.update({text: index for index, text in added.texts.items()})
    plain = {piece.text for piece in model.pieces if piece.kind in (NORMAL, USER_DEFINED)} & set(words)
    pairs = merges(model.pieces, plain)
    fallback = {"byte_fallback": model.byte_fallback, "unk_token": model.unknown, "fuse_unk": True}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=pairs, **fallback))
    prefix = added.config.get("add_prefix_space", True) if whole else model.dummy_prefix
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    if whole:
        # Spaces stay spaces until the text is cut, because a token such as <|end|> eats those that follow it.
        some = "|".join(re.escape(text) for text in added.texts.values())
        no_prefix = normalizers.Replace(Regex(rf"\A▁(?={some})"), "")
        tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("▁", " "), *steps, no_prefix])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(content=" ", left=1)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    own = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED and piece.text in words]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in own])
    _add(tokenizer, added, normalized=True if whole else None)
    _frame(tokenizer, added)
    return tokenizer


def _frame(tokenizer: Tokenizer, added: _Added) -> None:
    """Put ``<s>`` before (and, on request, ``</s>`` after) every text, as both sentencepiece tokenizers do."""
    named, config = added.named, added.config
    begin = f"{named['bos_token']} " if config.get("add_bos_token", True) else ""
    end = f" {named['eos_token']}" if config.get("add_eos_token", False) else ""
    used = [text.strip() for text in (begin, end) if text]
    special = [(text, tokenizer.token_to_id(text)) for text in used]
    single, pair = f"{begin}$A{end}", f"{begin}$A{end} {begin}$B:1{end}"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


def _add(tokenizer: Tokenizer, added: _Added, *, normalized: bool | None) -> None:
    names = ("lstrip", "rstrip", "single_word", "normalized", "special")
    forced = {} if normalized is None else {"normalized": normalized}
    tokens = [AddedToken(t.content, **{**{n: getattr(t, n) for n in names}, **forced}) for t in added.by_id.values()]
    tokenizer.add_special_tokens([token for token in tokens if token.special])
    tokenizer.add_tokens([token for token in tokens if not token.special])


def _with_token(backend: Tokenizer, text: str, index: int) -> Tokenizer:
    # The library numbers new tokens from the vocabulary's size; one that is in the model's vocabulary keeps its id.
    tree = json.loads(backend.to_str())
    tree["model"]["vocab"][text] = index
    grown = Tokenizer.from_str(json.dumps(tree))
    grown.add_special_tokens([AddedToken(text, normalized=False, special=True)])
    return grown


def _read_added(folder: Path) -> _Added:
    config = read_json(folder / "tokenizer_config.json")
    maps = folder / "special_tokens_map.json"
    named = {**(read_json(maps) if maps.is_file() else {}), **config}
    names = {key: _text(named[key]) for key in _NAMED if named.get(key) is not None}
    listed, fast = config.get("added_tokens_decoder"), folder / "tokenizer.json"
    if isinstance(listed, dict):
        tokens = {int(i): AddedToken(**{k: item[k] for k in _FLAGS if k in item}) for i, item in listed.items()}
        return _Added(dict(sorted(tokens.items())), names, config)
    if fast.is_file():  # transformers 5 leaves out the list and writes tokenizer.json, whatever files it began with
        items = read_json(fast).get("added_tokens", [])
        tokens = {int(item["id"]): AddedToken(**{k: item[k] for k in _FLAGS if k in item}) for item in items}
        return _Added(dict(sorted(tokens.items())), names, config, saved_by_transformers_5=True)
    return _Added(dict(sorted(_older(folder, named, names).items())), names, config)


def _older(folder: Path, named: dict[str, Any], names: dict[str, str]) -> dict[int, AddedToken]:
    """Read added_tokens.json, which folders from before transformers 4.34 have instead of added_tokens_decoder."""
    path = folder / "added_tokens.json"
    special = {_text(token) for token in named.get("additional_special_tokens", [])} | set(names.values())
    ids = {str(text): int(index) for text, index in (read_json(path) if path.is_file() else {}).items()}
    if (folder / "tokenizer.model").is_file():
        pieces = read_sentencepiece(folder / "tokenizer.model").pieces
        ids.update({piece.text: index for index, piece in enumerate(pieces) if piece.text in special})
    return {index: AddedToken(text, normalized=False, special=text in special) for text, index in ids.items()}


def _text(token: Any) -> str:
    text = token["content"] if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is not a token")
    return text


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


def read_sentencepiece(path: Path) -> SentencePiece:
    """Parse the file; raise UserError when it is broken, not byte-pair, or normalises text in ways not carried over."""
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = [_piece(dict(_fields(value))) for number, value in fields if number == 1]
        trainer = _merged_fields(fields, 2)
        normalizer = _merged_fields(fields, 3)
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
    if unsupported := [what for what, is_so in refused.items() if is_so]:
        raise UserError(
            f"uses {', '.join(unsupported)}, which is not carried over", place=str(path), remedy=_PUBLISHED_TOKENIZER
        )
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


def _merged_fields(fields: list[tuple[int, Any]], number: int) -> dict[int, Any]:
    values: dict[int, Any] = {}
    for key, value in fields:
        if key == number:
            values.update(_fields(value))
    return values


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
