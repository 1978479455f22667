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
        "result_path": rows.with_name("replies.jsonl"),  # else it writes into the folder it is started in
    }
    return SwiftInfer([word for name, value in flags.items() for word in (f"--{name}", str(value))])


class Ours:
    """Answer a closed test set by likelihood, as ``emoverse evaluate`` does."""

    def __init__(self, folder: Path, frames: FrameStore, batch_size: int) -> None:
        from emoverse.inference.encode import Encoder
        from emoverse.inference.settings import settings_of_model
        from emoverse.inference.torch_engine import TorchBackend, load_model

        self.backend, self.encoder = TorchBackend(load_model(folder)), Encoder(folder, settings_of_model(folder))
        self.frames, self.batch_size = frames, batch_size

    def answers(self, one: EvaluationSet) -> list[str]:
        """Return the answers to all rows; no features are kept from the turn before."""
        engine = Engine(self.backend, self.encoder, self.frames, batch_size=self.batch_size)
        return [one.answers[i] for i in engine.judged(list(one.rows), one.answers)[1]]


def against_swift(folder: Path, one: EvaluationSet, ours: Ours, batch_size: int, tokens: int) -> dict[str, Any]:
    """Time both ways of answering a closed test set, and compare their answers; ``batch_size`` is ms-swift's."""
    rows = list(one.rows)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.jsonl"
        kept = ({key: row[key] for key in ("messages", "videos", "images")} for row in rows)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), "utf-8")
        theirs = swift_infer(folder, path, ours.frames, batch_size, tokens)
        wall: list[tuple[float, float]] = []
        cpu: list[tuple[float, float]] = []
        for turn in range(ROUNDS + 1):  # the first turn warms both up
            start, worked = time.perf_counter(), time.process_time()
            said = ours.answers(one)
            middle, between = time.perf_counter(), time.process_time()
            told = [str(reply["response"]) for reply in theirs.run()]
            if turn:
                wall.append((middle - start, time.perf_counter() - middle))
                cpu.append((between - worked, time.process_time() - between))
    equal = [a == b for a, b in zip(said, told, strict=True) if b in one.answers]
    mine, swift = (median(column) for column in zip(*wall, strict=True))
    return {
        "test": one.name,
        "rows": len(rows),
        "swift_batch": batch_size,
        "ours_rows_per_s": round(len(rows) / mine, 1),
        "swift_rows_per_s": round(len(rows) / swift, 1),
        "ratio": round(swift / mine, 2),
        "cpu_ratio": round(sum(b for _, b in cpu) / sum(a for a, _ in cpu), 2),
        "greedy_allowed": len(equal),
        "equal_where_allowed": sum(equal),
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
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=8, help="most tokens ms-swift may generate; an answer has 2 to 4")
    args = parser.parse_args()
    print(json.dumps({"cause pairs": cause_pairs()}), flush=True)
    one = max((one for one in read_sets(args.amt) if one.answers), key=lambda one: len(one.rows))
    folder, frames = model_folder(args.model), FrameStore(args.validated)
    ours = Ours(folder, frames, args.batch_size)
    for batch_size in (1, args.batch_size):  # ms-swift as it comes, and in batches of our size
        print(json.dumps({"likelihood": against_swift(folder, one, ours, batch_size, args.tokens)}), flush=True)


if __name__ == "__main__":
    main()
