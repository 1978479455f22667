"""Likelihoods and greedy replies, held against transformers one row and one answer at a time."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from emoverse.errors import UserError
from emoverse.inference import engine as feature_module
from emoverse.inference.engine import Engine
from emoverse.inference.torch_engine import TorchBackend, load_model
from emoverse.prompt import Encoder, settings_of_model
from tests.factories.answering import MEDIA, SYSTEM, make_model

ANSWERS = ("Joy.", "Anger.", "no", "Sadness and then some")


class Counting(TorchBackend):
    """A backend that remembers how many frames it looked at."""

    looked = 0

    def vision(self, pixels):
        self.looked += len(pixels)
        return super().vision(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("engine") / "model") / "model"


@pytest.fixture(scope="module")
def loaded(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def frames():
    noise = np.random.default_rng(0)
    size = (MEDIA.size, MEDIA.size, 3)
    shown = {f"clip:{i}": noise.integers(0, 256, (1 + i % 3, *size), dtype=np.uint8) for i in range(6)}
    return {**shown, **{f"{name}#blank": np.full_like(pixels, 128) for name, pixels in shown.items()}}


@pytest.fixture
def engine(folder, loaded, frames):
    return Engine(Counting(loaded), Encoder(folder, settings_of_model(folder)), frames, batch_size=4)


def row(number: int, reference: str = "") -> dict:
    media = "image" if number % 3 == 0 else "video"
    shown = {"videos": [], "images": [], f"{media}s": [reference or f"clip:{number}"]}
    question = f"<{media}>The person says: '{'hello there ' * number}' How do they feel?"
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    return {"messages": turns, "channel": f"row {number}", **shown}


ROWS = [row(number) for number in range(6)]


def test_likelihoods_are_those_of_whole_answers_asked_one_by_one(engine, loaded, frames):
    import torch

    found = engine.score_answers(ROWS, ANSWERS)[0]

    for i, one in enumerate(ROWS):
        shown = frames[(one["videos"] + one["images"])[0]]
        prompt = engine.encoder.prompt_ids([one], [len(shown)])[0].tolist()
        for j, answer in enumerate(ANSWERS):
            ids = engine.encoder.answer_ids(answer)
            with torch.inference_mode():
                pixels = torch.from_numpy(engine.encoder.pixels(shown))
                logits = loaded(input_ids=torch.tensor([prompt + ids]), pixel_values=pixels).logits[0]
            steps = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
            expected = sum(steps[k, token].item() for k, token in enumerate(ids))
            assert found[i, j] == pytest.approx(expected, abs=1e-4)


def test_greedy_replies_are_those_of_transformers_generate(engine, loaded, frames):
    import torch

    found = engine.greedy_tokens(ROWS, 10)

    for one, tokens in zip(ROWS, found, strict=True):
        shown = frames[(one["videos"] + one["images"])[0]]
        ids = torch.from_numpy(engine.encoder.prompt_ids([one], [len(shown)])[0])[None]
        pixels = torch.from_numpy(engine.encoder.pixels(shown))
        with torch.inference_mode():
            whole = loaded.generate(
                input_ids=ids,
                pixel_values=pixels,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=10,
                do_sample=False,
            )
        theirs = [token for token in whole[0, ids.shape[1] :].tolist() if token not in engine.encoder.settings.stop]
        assert tokens == theirs


def test_the_answer_taken_is_the_greedy_reply_wherever_that_is_an_answer(engine):
    free = engine.generate(ROWS, 3)
    answers = (*dict.fromkeys(free[::2]), "Joy.", "Anger.")  # what this model happens to say, cut short, and does not
    whole = engine.generate(ROWS, 64)
    sums, chosen = engine.score_answers(ROWS, answers)
    for reply, one, taken in zip(whole, sums, chosen, strict=True):
        assert answers[taken] == reply if reply in answers else taken == one.argmax()


def test_the_batch_size_changes_nothing(engine):
    apart, together = [], []
    for size, results in ((1, apart), (6, together)):
        engine.batch_size = size
        results += [engine.score_answers(ROWS, ANSWERS)[0], engine.generate(ROWS, 8)]
    np.testing.assert_allclose(apart[0], together[0], atol=1e-4)
    assert apart[1] == together[1]


def test_a_reply_that_ended_stays_ended_while_others_go_on(engine, loaded):
    import torch

    settings = engine.encoder.settings
    before = engine.greedy_tokens(ROWS, 6)
    victim = next(tokens for tokens in before if len(tokens) > 2)[2]
    object.__setattr__(settings, "stop", (*settings.stop, victim))
    after = engine.greedy_tokens(ROWS, 6)
    assert torch.is_grad_enabled()
    for long, short in zip(before, after, strict=True):
        assert short == (long[: long.index(victim)] if victim in long else long)
    assert any(len(long) > len(short) for long, short in zip(before, after, strict=True))


def test_a_clip_is_looked_at_once_and_blank_clips_of_one_shape_once_together(engine):
    twice = [row(1), row(4), row(1)]
    engine.score_answers(twice, ANSWERS)
    engine.generate(twice, 2)
    assert engine.backend.looked == 2 + 2
    blank = [row(1, "clip:1#blank"), row(4, "clip:4#blank")]
    engine.score_answers(blank, ANSWERS)
    assert engine.backend.looked == 4 + 2


def test_features_beyond_the_limit_are_dropped_and_computed_again(engine, monkeypatch):
    whole = engine.score_answers(ROWS, ANSWERS)[0]
    monkeypatch.setattr(feature_module, "CACHE_BYTES", 1)
    engine.batch_size = 1
    np.testing.assert_allclose(engine.score_answers(ROWS, ANSWERS)[0], whole, atol=1e-4)
    assert len(engine.cache) == 1


def test_no_rows_give_no_answers(engine):
    assert engine.score_answers([], ANSWERS)[0].shape == (0, 4)
    assert engine.generate([], 4) == []


def test_a_row_without_a_clip_is_named(engine):
    with pytest.raises(UserError, match="row 1: it shows 0 clips"):
        engine.generate([{**row(1), "videos": []}], 2)


def test_a_logit_that_is_not_finite_stops_every_kind_of_answer_and_names_the_row(folder, frames):
    model = load_model(folder)
    model.lm_head.weight.data[7] = float("nan")
    engine = Engine(TorchBackend(model), Encoder(folder, settings_of_model(folder)), frames, batch_size=4)
    for answer in (lambda: engine.score_answers(ROWS[2:], ANSWERS), lambda: engine.generate(ROWS[2:], 3)):
        with pytest.raises(UserError, match=r"row 5: the model's logits are NaN or infinite"):
            answer()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named_when_the_model_is_loaded(folder, tmp_path, value):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[len(tensors) // 2]
    tensors[name].flatten()[3] = value
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model: weight .* has NaN or infinite values") as caught:
        load_model(tmp_path / "model")
    assert name.rpartition(".")[2] in str(caught.value)
