"""Measure closed-answer scoring against `swift infer`, and the scorer of cause pairs on 100,000 replies.

Both ways answer the same rows with the same model, in turn in one process, models loaded beforehand, so that a busy
machine hurts both alike. Run after `make run`: ``python -m benchmarks.scoring`` (about a minute), or name the folders.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from emoverse.evaluation.score import score_file
from emoverse.inference.engine import Engine
from emoverse.inference.load import model_folder
from emoverse.inference.testsets import EvaluationSet, read_sets
from emoverse.media.frames import FrameStore

ROUNDS = 3
PAIRS = 100_000
EMOTIONS = ("disgust", "anger", "joy", "sadness", "surprise", "fear")


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def swift_infer(model: Path, rows: Path, frames: FrameStore, batch_size: int, tokens: int) -> Any:
    """Return ms-swift's own inference, loaded, with our template and frames."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from swift.pipelines.infer.infer import SwiftInfer

    from emoverse.training.template import NAME, use_frames

    use_frames(frames)  # type: ignore[arg-type]
    flags = {
        "model": model,
        "model_type": "internvl",
        "template": NAME,
        "use_hf": "true",
        "load_args": "false",
        "torch_dtype": "float32",
        "infer_backend": "transformers",
        "val_dataset": rows,
        "max_batch_size": batch_size,
        "max_new_tokens": tokens,
        "temperature": "0",
        "attn_impl": "sdpa",
    }
    return SwiftInfer([word for name, value in flags.items() for word in (f"--{name}", str(value))])


def against_swift(model: Path, one: EvaluationSet, frames: FrameStore, batch_size: int, tokens: int) -> dict[str, Any]:
    """Time both ways of answering one closed test set, and compare their answers."""
    from emoverse.inference.encode import Encoder
    from emoverse.inference.settings import settings_of_model
    from emoverse.inference.torch_engine import TorchBackend, load_model

    folder = model_folder(model)
    loaded, encoder = TorchBackend(load_model(folder)), Encoder(folder, settings_of_model(folder))
    rows, answers = list(one.rows), one.answers
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.jsonl"
        kept = ({key: row[key] for key in ("messages", "videos", "images")} for row in rows)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), "utf-8")
        theirs = swift_infer(folder, path, frames, batch_size, tokens)
        ours_s, theirs_s, found, told = [], [], np.zeros(0), []
        ours_cpu, theirs_cpu = 0.0, 0.0
        for turn in range(ROUNDS + 1):  # the first turn warms both up
            engine = Engine(loaded, encoder, frames, batch_size=batch_size)  # no features kept from the turn before
            began, cpu = time.perf_counter(), time.process_time()
            found = engine.likelihoods(rows, answers)
            middle, between = time.perf_counter(), time.process_time()
            told = [str(reply["response"]) for reply in theirs.run()]
            if turn:
                ours_s.append(middle - began)
                theirs_s.append(time.perf_counter() - middle)
                ours_cpu, theirs_cpu = ours_cpu + between - cpu, theirs_cpu + time.process_time() - between
    said = [answers[i] for i in found.argmax(axis=1)]
    allowed = [(a, b) for a, b in zip(said, told, strict=True) if b in answers]
    return {
        "test": one.name,
        "rows": len(rows),
        "ours_rows_per_s": round(len(rows) / median(ours_s), 1),
        "swift_rows_per_s": round(len(rows) / median(theirs_s), 1),
        "ratio": round(median(theirs_s) / median(ours_s), 2),
        "cpu_ratio": round(theirs_cpu / ours_cpu, 2),
        "greedy_allowed": len(allowed),
        "equal_where_allowed": sum(a == b for a, b in allowed),
    }


def cause_pairs(count: int = PAIRS) -> dict[str, Any]:
    """Time the whole of ``emoverse score`` on made-up cause pairs, 1,000 bootstrap samples included."""
    rng = np.random.default_rng(0)

    def pairs(target: int, emotion: str, fewest: int) -> str:
        causes = sorted(set(rng.integers(1, target + 1, rng.integers(fewest, 3)).tolist()))
        return ";".join(f"{target}_{emotion},{cause}" for cause in causes)

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "predictions.jsonl"
        with path.open("w", encoding="utf-8") as handle:
            for number in range(count):
                target, emotion = int(rng.integers(1, 20)), EMOTIONS[rng.integers(6)]
                answer = pairs(target, emotion, 0)
                gold = {"answer": answer, "answers": None, "target": target, "emotion": emotion}
                gold |= {"previous": target - 1 or None, "group": f"dia{number // 10}"}
                row = {"channel": f"ecpe/{number}", "response": pairs(target, emotion, 1), "gold": gold}
                handle.write(json.dumps({**row, "labels": answer}) + "\n")
        processor = time.process_time()
        wall = seconds(lambda: score_file(path, "ecpe", bootstrap=1000))
        return {"replies": count, "wall_s": round(wall, 2), "cpu_s": round(time.process_time() - processor, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("data/stage2"))
    parser.add_argument("--amt", type=Path, default=Path("data/amt"))
    parser.add_argument("--validated", type=Path, nargs="+", default=sorted(Path("data/validated").glob("*/")))
    parser.add_argument("--test", default="meld-mer", help="a closed test set of AMT")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=8, help="most tokens ms-swift may generate; an answer has 2 to 4")
    args = parser.parse_args()
    print(json.dumps({"cause pairs": cause_pairs()}), flush=True)
    one = next(one for one in read_sets(args.amt) if one.name == args.test)
    frames = FrameStore(args.validated)
    found = against_swift(args.model, one, frames, args.batch_size, args.tokens)
    print(json.dumps({"likelihood": found}), flush=True)


if __name__ == "__main__":
    main()
