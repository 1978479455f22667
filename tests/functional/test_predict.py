"""Ask an exported model about a clip and about a dialogue."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from emoverse.cli.__init__ import main
from emoverse.inference.onnx_engine import onnx_engine
from emoverse.serving.predictor import load_predictor, predict_dialogue
from tests.factories.answering import MEDIA, exported_model
from tests.factories.clips import write_clip

ALONE = """
import sys
from pathlib import Path

if __name__ == "__main__":
    from emoverse.config import MediaParams
    from emoverse.media.workers import Task
    from emoverse.serving.clips import Limits, DecodeJob, decode_job
    from emoverse.serving.predictor import load_predictor

    found = load_predictor(Path(sys.argv[1])).predict_clip(Path(sys.argv[2]), "hello")
    print(sorted(found.answers))
    # What the worker process does, here and at a real model's size.
    media = MediaParams(frames=2, size=448, timeout=20.0)
    clip = Path(sys.argv[2])
    job = DecodeJob(Task(clip_id="a", clip="a", path=clip, units=None, params=media), Limits())
    print(len(decode_job(job).frames))
    heavy = {"torch", "torchvision", "transformers", "swift", "pyarrow", "pandas"}
    print(sorted({name.partition(".")[0] for name in sys.modules} & heavy))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return exported_model(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def predictor(folders):
    return load_predictor(folders["onnx"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "a clip.mp4")


def dialogue(folder, *utterances):
    path = folder / "dialogue.json"
    path.write_text(json.dumps({"utterances": list(utterances)}), "utf-8")
    return path


def test_a_clip_gets_an_answer_to_every_task_and_shows_what_was_seen(predictor, clip):
    found = predictor.predict_clip(clip, "hello there")
    assert sorted(found.answers) == list(predictor.tasks) == ["mer", "msa"]
    emotion = found.answers["mer"]
    assert list(emotion.probabilities) == ["anger", "sadness", "surprise", "disgust", "joy", "neutral", "fear"]
    assert sum(emotion.probabilities.values()) == pytest.approx(1.0)
    assert emotion.reply in emotion.probabilities
    assert emotion.question.startswith("<video>The person says: 'hello there' <emotion> ")
    assert found.frames.shape == (MEDIA.frames, MEDIA.size, MEDIA.size, 3)
    assert found.still.shape == (MEDIA.size, MEDIA.size, 3)
    assert found.seconds == pytest.approx(1.0)


def test_the_answer_is_that_of_the_engine_evaluate_uses(folders, predictor, clip):
    found = predictor.predict_clip(clip, "what a day", ["mer"])
    row = {
        "messages": [
            {"role": "system", "content": predictor.exported.prompts["mer"].system},
            {"role": "user", "content": found.answers["mer"].question},
        ],
        "videos": ["clip:x"],
    }
    answers = predictor.exported.prompts["mer"].answers
    sums = onnx_engine(folders["onnx"], {"clip:x": found.frames}).score_answers([row], answers)[0][0]
    shares = np.exp(sums - sums.max())
    assert list(found.answers["mer"].probabilities.values()) == pytest.approx(list(shares / shares.sum()), abs=1e-6)


def test_words_and_frames_both_count_and_nothing_is_kept_between_clips(predictor, clip, tmp_path):
    other = write_clip(tmp_path / "b.mp4", rotation=90)
    one, two, three = (predictor.predict_clip(p, t) for p, t in ((clip, "fine"), (clip, "oh no"), (other, "fine")))
    assert one.answers != two.answers
    assert one.answers["mer"].probabilities != three.answers["mer"].probabilities
    assert predictor.predict_clip(clip, "fine").answers == one.answers
    assert not predictor.clips


def test_callers_in_several_threads_get_their_own_answers(predictor, clip):
    texts = [f"hello {number}" for number in range(4)]
    alone = [predictor.predict_clip(clip, text).answers for text in texts]
    with ThreadPoolExecutor(4) as threads:
        assert [found.answers for found in threads.map(lambda text: predictor.predict_clip(clip, text), texts)] == alone


def test_without_words_the_prompt_says_so_as_the_training_did(predictor, clip):
    assert "The person says: '...' <emotion>" in predictor.predict_clip(clip, "  ", ["mer"]).answers["mer"].question


def test_the_verb_prints_bars_or_one_json_object(folders, clip, capsys):
    words = ["predict", str(clip), "--model", str(folders["onnx"]), "--text", "hello", "--task", "mer"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("a clip.mp4: 1.0 s, 2 frames\nemotion recognition: ")
    assert "%" in printed.out
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["answers"]) == ["mer"]
    assert sum(result["answers"]["mer"]["probabilities"].values()) == pytest.approx(1.0, abs=1e-3)


def test_predicting_imports_neither_torch_nor_transformers(folders, clip, tmp_path):
    script = tmp_path / "alone.py"
    script.write_text(ALONE)
    words = [sys.executable, str(script), str(folders["onnx"]), str(clip)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["onnxruntime on the CPU", "['mer', 'msa']", "3", "[]"]


def test_a_dialogue_with_its_emotions_is_asked_for_causes(predictor, clip, tmp_path):
    path = dialogue(
        tmp_path,
        {"speaker": "Ada", "text": "I won!", "emotion": "joy", "clip": str(clip)},
        {"speaker": "Bo", "text": "Fine.", "emotion": "neutral"},
    )
    found = predict_dialogue(predictor, path)
    assert found.emotions == ["joy", "neutral"]
    assert found.answers == [None, None]
    assert [one.target for one in found.causes] == [1]  # nothing causes a neutral utterance
    assert json.loads(json.dumps(found.as_json()))["replies"][0]["target"] == 1


def test_a_dialogue_without_emotions_has_them_found_first(predictor, clip, tmp_path):
    (tmp_path / "c.mp4").write_bytes(clip.read_bytes())
    path = dialogue(tmp_path, {"text": "what a day", "clip": "c.mp4"}, {"text": "oh no", "clip": "c.mp4"})
    found = predict_dialogue(predictor, path)
    alone = [predictor.predict_clip(clip, text, ["mer"]).answers["mer"].reply for text in ("what a day", "oh no")]
    assert found.emotions == alone
    assert [one.target for one in found.causes] == [i for i, emotion in enumerate(alone, 1) if emotion != "neutral"]


def test_the_verb_tells_a_dialogue_by_its_name(folders, clip, tmp_path, capsys):
    path = dialogue(tmp_path, {"text": "I won!", "emotion": "joy", "clip": str(clip)})
    assert main(["predict", str(path), "--model", str(folders["onnx"])]) == 0
    assert capsys.readouterr().out.startswith("utterance 1: joy (given)\n")
    assert main(["predict", str(path), "--model", str(folders["onnx"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["utterances"] == [{"emotion": "joy"}]
