"""A model is asked exactly as it was trained: the engines' tokens and pixels are those ms-swift feeds it."""

from __future__ import annotations

import numpy as np

from emoverse.inference.encode import Encoder
from emoverse.inference.settings import settings_of_model
from emoverse.media.frames import FrameStore
from tests.factories.answering import make_model, make_validated, rows_of, utterances


def test_prompts_answers_and_pixels_are_those_the_trainer_feeds_the_model(tmp_path):
    from swift.model import get_model_processor
    from swift.template import get_template

    from emoverse.training.template import NAME, use_frames

    table = utterances("ecf", 8)
    rows = [*rows_of("mer", table), *rows_of("msa", table), *rows_of("ecpe", table)]
    still = {"videos": [], "images": [f"{rows[0]['videos'][0]}#peak"], "channel": "still"}
    turns = [{**turn, "content": turn["content"].replace("<video>", "<image>")} for turn in rows[0]["messages"]]
    rows.append({**rows[0], **still, "messages": turns})
    model = make_model(tmp_path / "base") / "model"
    frames = FrameStore([make_validated(tmp_path / "ecf", "ecf", [one.utterance_id for one in table])])
    use_frames(frames)
    _, processor = get_model_processor(str(model), load_model=False, model_type="internvl", use_hf=True)
    template = get_template(processor, template_type=NAME, max_length=4096)
    template.set_mode("train")
    encoder = Encoder(model, settings_of_model(model))

    for row in rows:
        shown = frames[(row["videos"] + row["images"])[0]]
        fed = template.encode({key: row[key] for key in ("messages", "videos", "images", "channel")})
        asked = encoder.prompt_ids([row], [len(shown)])[0].tolist()
        answer = encoder.answer_ids(row["messages"][-1]["content"])
        assert fed["input_ids"] == asked + answer, row["channel"]
        assert [token for token in fed["labels"] if token != -100] == answer, row["channel"]
        np.testing.assert_allclose(fed["pixel_values"].numpy(), encoder.pixels(shown), atol=2e-6)
