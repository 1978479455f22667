"""The original code's answers on tiny checkpoints (shared data, never in the repository) against converted models."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emoverse.artifacts.manifest import open_source
from emoverse.cli.__init__ import main
from emoverse.errors import UserError
from emoverse.models.convert import convert
from tests.factories.internvl2_forward import features, greedy, logits

FAMILIES = {"qwen2_gqa": "qwen2", "ilm2_gqa": "internlm2", "phi3_su_short": "phi3"}
TEMPLATE_OF = {"qwen2_gqa": "Hermes-2", "ilm2_gqa": "internlm2-chat", "phi3_su_short": "phi3-chat"}
variants = pytest.mark.parametrize("variant", FAMILIES)
attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])


@pytest.fixture(scope="module")
def data(shared_data: Path) -> Path:
    folder = shared_data / "internvl2"
    if not folder.is_dir():
        pytest.skip(f"the original's answers are not at {folder}")
    return folder


@pytest.fixture(scope="module")
def converted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def make(variant: str) -> Path:
        out = tmp_path_factory.mktemp(variant) / "out"
        convert(data / variant / "orig", out)
        return out / "model"

    return make


def answers(data: Path, variant: str) -> dict[str, torch.Tensor]:
    with np.load(data / variant / "ref.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive}


def load(folder: Path, attention: str = "eager") -> Any:
    from transformers import InternVLForConditionalGeneration

    read = InternVLForConditionalGeneration.from_pretrained
    model, info = read(folder, attn_implementation=attention, output_loading_info=True)
    assert not any(info.values()), info  # nothing missing, unexpected, mismatched or in error
    return model.eval()


@variants
@attentions
def test_logits_loss_and_features_are_the_originals(
    variant: str, attention: str, data: Path, converted: Callable[[str], Path]
) -> None:
    ref, model = answers(data, variant), load(converted(variant), attention)
    with torch.no_grad():
        out = model(input_ids=ref["ids"], attention_mask=ref["mask"], pixel_values=ref["px"], labels=ref["labels"])
        seen = [model.model.get_image_features(pixel_values=ref[px]).pooler_output for px in ("px", "px2")]
    rows, kept = ref["logits"].shape[-1], ref["mask"].bool()
    close = torch.testing.assert_close
    close(out.logits[..., :rows][kept], ref["logits"][kept], atol=1e-4, rtol=0)
    close(seen[0], ref["feat"], atol=1e-4, rtol=0)
    close(seen[1], ref["feat2"], atol=1e-4, rtol=0)
    old = torch.nn.functional.cross_entropy(out.logits[:, :-1, :rows].flatten(0, 1), ref["labels"][:, 1:].flatten())
    close(old, ref["loss"], atol=1e-5, rtol=0)
    # <video>'s own row can take no more than its share of the probability, which a tiny vocabulary shows.
    assert 0 <= float(out.loss - ref["loss"]) < 2 / rows


@variants
@attentions
def test_greedy_tokens_are_the_originals(
    variant: str, attention: str, data: Path, converted: Callable[[str], Path]
) -> None:
    ref, model = answers(data, variant), load(converted(variant), attention)
    prompt, image = ref["ids"][:1], model.config.image_token_id
    tiles = int((prompt == image).sum()) // ref["feat"].shape[1]
    out = model.generate(
        input_ids=prompt,
        pixel_values=ref["px"][:tiles],
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
    )
    assert out[0, prompt.shape[1] :].tolist() == ref["gen"][0, 1:].tolist()


@variants
def test_our_own_account_of_the_original_gives_its_answers_too(variant: str, data: Path) -> None:
    # test_internvl2_variants.py trusts it where the original's answers are not at hand.
    ref, folder = answers(data, variant), data / variant / "orig"
    settings, weights = json.loads((folder / "config.json").read_text("utf-8")), load_file(folder / "model.safetensors")
    image = int(ref["ids"][0].bincount().argmax())
    kept, found = ref["mask"].bool(), logits(weights, settings, ref["ids"], ref["px"], image)
    torch.testing.assert_close(found[kept], ref["logits"][kept], atol=1e-4, rtol=0)
    torch.testing.assert_close(features(weights, settings, ref["px2"]), ref["feat2"], atol=1e-4, rtol=0)
    tiles = int((ref["ids"][0] == image).sum()) // ref["feat"].shape[1]
    assert greedy(weights, settings, ref["ids"][:1], ref["px"][:tiles], image, 12) == ref["gen"][0, 1:].tolist()


@variants
def test_token_ids_of_texts_and_conversations_are_the_originals(
    variant: str, data: Path, converted: Callable[[str], Path]
) -> None:
    from transformers import AutoProcessor, AutoTokenizer

    known, family = json.loads((data / "prompts.json").read_text("utf-8")), FAMILIES[variant]
    folder = converted(variant)
    for tokenizer in (AutoTokenizer.from_pretrained(folder), AutoProcessor.from_pretrained(folder).tokenizer):
        assert [tokenizer(text).input_ids for text in known["texts"]] == known["ids"][family]
        for (_, *texts), ids in zip(known["conversations"], known["conversation_ids"][family], strict=True):
            assert [tokenizer(text).input_ids for text in texts] == ids


@variants
def test_the_chat_template_writes_the_originals_prompt(
    variant: str, data: Path, converted: Callable[[str], Path]
) -> None:
    from transformers import AutoProcessor

    known = json.loads((data / "prompts.json").read_text("utf-8"))
    place = [name for name, *_ in known["conversations"]].index(TEMPLATE_OF[variant])
    _, single, several = known["conversations"][place]
    processor = AutoProcessor.from_pretrained(converted(variant))
    first_turn = [{"role": "user", "content": "<img><IMG_CONTEXT><IMG_CONTEXT></img>\nRate the clip"}]
    longer = [*first_turn, {"role": "assistant", "content": "good"}, {"role": "user", "content": "why?"}]
    for messages, text, ids in zip(
        (first_turn, longer), (single, several), known["conversation_ids"][FAMILIES[variant]][place], strict=True
    ):
        for writer in (processor, processor.tokenizer):
            assert writer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == text
        assert processor.tokenizer(text).input_ids == ids


@variants
def test_the_model_survives_being_saved_and_read_again(
    variant: str, data: Path, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoProcessor, AutoTokenizer

    ref, model = answers(data, variant), load(converted(variant))
    model.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(converted(variant)).save_pretrained(tmp_path)
    with torch.no_grad():
        first, second = (m(input_ids=ref["ids"], pixel_values=ref["px"]).logits for m in (model, load(tmp_path)))
    assert torch.equal(first, second)
    assert (
        load_file(tmp_path / "model.safetensors").keys() == load_file(converted(variant) / "model.safetensors").keys()
    )
    known = json.loads((data / "prompts.json").read_text("utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert [tokenizer(text).input_ids for text in known["texts"]] == known["ids"][FAMILIES[variant]]


@variants
def test_the_output_says_what_it_was_made_from(variant: str, converted: Callable[[str], Path]) -> None:
    opened = open_source(converted(variant).parent, made_by="convert")
    assert [r["name"] for r in opened.ancestry.values() if r["step"] == "raw"] == ["internvl2/orig"]


def test_the_transposed_pixel_shuffle_is_refused_by_name(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data / "qwen2_mha_ps1/orig"
    with pytest.raises(UserError, match="ps_version 'v1'"):
        convert(folder, tmp_path / "out")
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 2
    assert "ps_version 'v1'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
