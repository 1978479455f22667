"""What is handed to vLLM and read from it, with a stand-in for vLLM itself that answers by transformers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from emoverse.errors import UserError
from emoverse.inference.engine import Engine
from emoverse.inference.torch_engine import TorchBackend, load_model, open_engine
from emoverse.inference.vllm_engine import VllmEngine, encoder_of
from emoverse.prompt.encode import Encoder
from emoverse.prompt.model_settings import settings_of_model
from tests.factories.answering import MEDIA, make_model
from tests.unit.test_inference_engine import ANSWERS, ROWS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("vllm") / "model") / "model"


@pytest.fixture(scope="module")
def frames():
    noise = np.random.default_rng(0)
    return {
        f"clip:{i}": noise.integers(0, 256, (1 + i % 3, MEDIA.size, MEDIA.size, 3), dtype=np.uint8) for i in range(6)
    }


class StandIn:
    """What vLLM documents: an image token becomes marks and patches, ``prompt_logprobs`` cover all that."""

    def __init__(self, folder, images):
        self.model, self.own, self.images = load_model(folder), settings_of_model(folder), images
        known = Encoder(folder, self.own).tokenizer.token_to_id
        self.image, patches = known(self.own.image_token), self.own.tokens_per_frame
        self.spelled = [known(self.own.image_start), *[self.image] * patches, known(self.own.image_end)]
        self.encoder = Encoder(folder, self.own)

    def expanded(self, ids):
        return [token for one in ids for token in (self.spelled if one == self.image else [one])]

    def generate(self, prompts, how, *, use_tqdm):
        return [self._one(prompt, how) for prompt in prompts]

    def _one(self, prompt, how):
        import torch

        ids = self.expanded(prompt["prompt_token_ids"])
        shown = prompt["multi_modal_data"]["image"]
        assert len(shown) == prompt["prompt_token_ids"].count(self.image) <= self.images
        pixels = torch.from_numpy(self.encoder.pixels(np.stack([np.asarray(one) for one in shown])))
        with torch.inference_mode():
            if "prompt_logprobs" not in how:
                more = {"max_new_tokens": how["max_tokens"], "do_sample": False}
                asked = torch.tensor([ids])
                whole = self.model.generate(
                    input_ids=asked, pixel_values=pixels, attention_mask=torch.ones_like(asked), **more
                )
                return SimpleNamespace(outputs=[SimpleNamespace(token_ids=whole[0, len(ids) :].tolist())])
            steps = self.model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0].log_softmax(-1)
        found = [None]
        for token, row in zip(ids[1:], steps[:-1], strict=True):
            kept = {token, int(row.argmax())}
            ranks = {one: int((row > row[one]).sum()) + 1 for one in kept}
            found.append({one: SimpleNamespace(logprob=float(row[one]), rank=ranks[one]) for one in kept})
        return SimpleNamespace(prompt_logprobs=found)


@pytest.fixture
def vllm(folder, frames):
    return VllmEngine(lambda images: StandIn(folder, images), dict, encoder_of(folder), frames, rows_at_once=4)


def test_prompts_have_one_image_token_a_frame_and_become_our_own_once_spelled_out(vllm, folder, frames):
    encoder = Encoder(folder, settings_of_model(folder))
    spell = StandIn(folder, 8).expanded
    for row, prompt in zip(ROWS, vllm.prompts(ROWS), strict=True):
        shown = frames[(row["videos"] + row["images"])[0]]
        assert spell(prompt["prompt_token_ids"]) == encoder.prompt_ids([row], [len(shown)])[0].tolist()
        assert [np.asarray(one).tolist() for one in prompt["multi_modal_data"]["image"]] == shown.tolist()


def test_likelihoods_answers_and_replies_are_those_of_the_torch_engine(vllm, folder, frames):
    torch_engine = Engine(TorchBackend(load_model(folder)), Encoder(folder, settings_of_model(folder)), frames)
    answers = (*ANSWERS, *torch_engine.generate(ROWS, 4)[:2])
    sums, chosen = torch_engine.judged(ROWS, answers)
    found, taken = vllm.judged(ROWS, answers)
    np.testing.assert_allclose(found, sums, atol=1e-3)
    assert taken.tolist() == chosen.tolist()
    assert vllm.generate(ROWS, 6) == torch_engine.generate(ROWS, 6)


def test_more_frames_than_before_start_vllm_anew(vllm, frames):
    frames["clip:0"] = np.repeat(frames["clip:0"], 9, axis=0)
    try:
        vllm.judged(ROWS[1:2], ANSWERS)
        assert vllm._llm.images == 8
        vllm.judged(ROWS[:1], ANSWERS)
        assert vllm._llm.images == 9
    finally:
        frames["clip:0"] = frames["clip:0"][:1]


def test_without_vllm_or_a_gpu_the_engine_says_what_to_do(folder, frames):
    with pytest.raises(UserError, match=r"evaluate.engine: vllm (is not installed|needs a CUDA GPU).*torch"):
        open_engine("vllm", folder, frames, batch_size=4)
