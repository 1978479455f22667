"""Rebuilt tokenizers against sentencepiece itself, driven as the slow tokenizers of transformers 4.37 drive it."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer

from emoverse.models.tokenizers import VIDEO, read_vocabulary
from tests.factories.internvl2 import EATS_SPACE, SPECIAL

CORPUS = [
    "The person in the video looks happy and says: 'what a day!'",
    "She sounds sad, the clip shows why: nobody came.",
    "视频中的人看起来很高兴，因为她赢了比赛。",
    "He was angry about the 3 broken cups  and 12 plates.",
    "Ёлка, ça va? naïve   café",
]
PARTS = [
    "the",
    " person",
    "happy ",
    "▁",
    "▁▁",
    " ",
    "  ",
    "\n",
    "\t",
    "视频",
    "高兴",
    "😀",
    "é",
    "12",
    ":",
    "<s>",
    "</s>",
    "<unk>",
    *SPECIAL,
]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(kind: str, *, prefix: bool, control: list[str] | None = None, **settings: Any) -> Path:
        (tmp_path / "corpus.txt").write_text("\n".join(CORPUS * 20), "utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(tmp_path / "corpus.txt"),
            model_prefix=str(tmp_path / "tokenizer"),
            model_type="bpe",
            vocab_size=400,
            byte_fallback=True,
            character_coverage=0.99,
            normalization_rule_name="identity",
            add_dummy_prefix=prefix,
            remove_extra_whitespaces=False,
            minloglevel=2,
            **({"user_defined_symbols": control} if control else {}),
        )
        flags = {"lstrip": False, "normalized": False, "single_word": False, "special": True}
        names = {0: "<unk>", 1: "<s>", **{400 + i: text for i, text in enumerate(SPECIAL)}}
        added = {
            str(i): {"content": t, "rstrip": kind != "InternLM2Tokenizer" and t in EATS_SPACE, **flags}
            for i, t in names.items()
        }
        named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        whole = {"tokenizer_class": kind, "added_tokens_decoder": added, **named, **settings}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(whole), "utf-8")
        return tmp_path

    return make


def slow(folder: Path, text: str, *, legacy: bool) -> list[int]:
    """Return what ``tokenize`` and (Llama's) ``_tokenize`` of transformers 4.37 return, with ``<s>``."""
    proto = (folder / "tokenizer.model").read_bytes()
    if not legacy:  # the slow class switches the dummy prefix off in the model and adds its own
        proto = without_prefix(proto)
    model = sentencepiece.SentencePieceProcessor(model_proto=proto)
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    added = {item["content"]: (int(i), item["rstrip"]) for i, item in config["added_tokens_decoder"].items()}
    if not legacy and text:
        text = "▁" + text.replace("▁", " ")
    cut = re.split("(" + "|".join(re.escape(word) for word in sorted(added, key=len, reverse=True)) + ")", text)
    ids: list[int] = []
    for before, part in zip(["", *cut], cut, strict=False):
        if part in added:
            ids.append(added[part][0])
        else:
            stripped = part.lstrip() if before in added and added[before][1] else part
            ids += model.encode(stripped) if stripped else []
    lone = model.piece_to_id("▁")
    if not legacy and len(ids) > 1 and ids[0] == lone and ids[1] in {i for i, _ in added.values()}:
        ids = ids[1:]
    return [1, *ids]


def without_prefix(proto: bytes) -> bytes:
    """Return the model with add_dummy_prefix off: the normaliser's field 3, a boolean after its name."""
    before = b"\x0a\x08identity\x12\x00\x18\x01"
    assert proto.count(before) == 1
    return proto.replace(before, before[:-1] + b"\x00")


def texts(count: int) -> list[str]:
    draw = random.Random(11)
    found = ["", " ", "▁", "<s>", " <|end|> x", "<|user|>\n  hi", *CORPUS]
    return found + ["".join(draw.choices(PARTS, k=draw.randint(1, 12))) for _ in range(count)]


def differences(folder: Path, *, legacy: bool) -> list[tuple[str, list[int], list[int]]]:
    backend: Tokenizer = read_vocabulary(folder, 400 + len(SPECIAL)).backend
    pairs = [(text, backend.encode(text).ids, slow(folder, text, legacy=legacy)) for text in texts(300)]
    return [pair for pair in pairs if pair[1] != pair[2]]


@pytest.mark.parametrize("prefix", [True, False])
def test_internlm2_ids_are_sentencepieces(prefix: bool, folder: Callable[..., Path]) -> None:
    assert differences(folder("InternLM2Tokenizer", prefix=prefix), legacy=True) == []


def test_legacy_llama_puts_a_space_before_every_stretch(folder: Callable[..., Path]) -> None:
    made = folder("LlamaTokenizer", prefix=True, legacy=True)
    assert differences(made, legacy=True) == []
    backend = read_vocabulary(made, 409).backend
    assert backend.encode("<|end|>happy").tokens[2].startswith("▁")


def test_llama_puts_one_space_before_the_whole_text(folder: Callable[..., Path]) -> None:
    made = folder("LlamaTokenizer", prefix=True, legacy=False)
    assert differences(made, legacy=False) == []
    backend = read_vocabulary(made, 409).backend
    assert not backend.encode("<|end|>happy").tokens[2].startswith("▁")


def test_a_llama_tokenizer_that_does_not_say_is_legacy(folder: Callable[..., Path]) -> None:
    assert differences(folder("LlamaTokenizer", prefix=True), legacy=True) == []


def test_user_defined_pieces_are_kept_whole(folder: Callable[..., Path]) -> None:
    made = folder("InternLM2Tokenizer", prefix=False, control=["[UNUSED_TOKEN_1]"])
    model = sentencepiece.SentencePieceProcessor(model_file=str(made / "tokenizer.model"))
    text = "the [UNUSED_TOKEN_1] person"
    assert read_vocabulary(made, 409).backend.encode(text).ids[1:] == model.encode(text)


def test_the_video_token_takes_the_first_free_row_and_changes_no_other(folder: Callable[..., Path]) -> None:
    made = folder("InternLM2Tokenizer", prefix=False)
    vocabulary = read_vocabulary(made, 500)  # an embedding longer than the vocabulary
    assert vocabulary.id_of(VIDEO) == 500
    the, person = (vocabulary.backend.encode(text).ids[1:] for text in ("the", "person"))
    assert vocabulary.backend.encode("the<video>person").ids == [1, *the, 500, *person]
    assert [vocabulary.id_of(text) for text in SPECIAL] == list(range(400, 400 + len(SPECIAL)))


@pytest.mark.parametrize("kind", ["InternLM2Tokenizer", "LlamaTokenizer"])
def test_text_comes_back_from_its_ids(kind: str, folder: Callable[..., Path]) -> None:
    backend = read_vocabulary(folder(kind, prefix=kind == "LlamaTokenizer", legacy=False), 409).backend
    for text in CORPUS:
        assert backend.decode(backend.encode(text).ids) == text


def test_older_folders_list_their_added_tokens_in_a_file_of_their_own(folder: Callable[..., Path]) -> None:
    made = folder("InternLM2Tokenizer", prefix=False)
    newer = read_vocabulary(made, 409)
    path = made / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    listed = settings.pop("added_tokens_decoder")
    path.write_text(json.dumps({**settings, "additional_special_tokens": SPECIAL}), "utf-8")
    ids = {item["content"]: int(i) for i, item in listed.items() if int(i) >= 400}
    (made / "added_tokens.json").write_text(json.dumps(ids), "utf-8")
    older = read_vocabulary(made, 409)
    for text in texts(50):
        if "</s>" not in text:  # the older files say that it is a token too
            assert older.backend.encode(text).ids == newer.backend.encode(text).ids


def test_a_fast_tokenizer_is_taken_as_it_is(folder: Callable[..., Path]) -> None:
    made = folder("InternLM2Tokenizer", prefix=False)
    slow_one = read_vocabulary(made, 409)
    slow_one.backend.save(str(made / "tokenizer.json"))
    (made / "tokenizer.model").unlink()
    path = made / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}), "utf-8")
    fast_one = read_vocabulary(made, 410)  # <video> is among its tokens now, and keeps its row
    assert fast_one.id_of(VIDEO) == 409
    assert fast_one.backend.to_str() == slow_one.backend.to_str()
