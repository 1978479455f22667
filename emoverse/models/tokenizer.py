"""Train the small tokenizer of the tiny base model: Qwen2's kind of BPE with InternVL2's special tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

VOCABULARY: Final = 2560
SPECIAL: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>",
    "</ref>", "<box>", "</box>", "<video>",
)  # fmt: skip
"""InternVL2-1B's added tokens, and <video>, which transformers' processor wants as one token."""

_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts text into words before merging."""

_WORDS: Final = Path(__file__).with_name("words.txt")
_TEMPLATE: Final = Path(__file__).with_name("chat_template.jinja")


def known_words() -> list[str]:
    """Read the built-in list of common English words, as a tokenizer of a large model would know them."""
    lines = _WORDS.read_text("utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]


def train_tokenizer(texts: Iterable[str], size: int = VOCABULARY) -> Any:
    """Train a byte-level BPE of ``size`` entries, special tokens included, and return it as transformers' tokenizer.

    The same texts in the same order give the same tokenizer. Any text can be encoded: all 256 bytes are in it.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL), initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
        chat_template=_TEMPLATE.read_text("utf-8"),
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
