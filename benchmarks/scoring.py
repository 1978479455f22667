"""Measure closed-answer scoring against `swift infer`, and the scorer of cause pairs on 100,000 replies.

Both ways answer the same rows with the same model, in turn in one process, models loaded beforehand, so that a busy
machine hurts both alike. Run after `make run`: ``python -m benchmarks.scoring`` (about a minute), or name the folders.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from emoverse.evaluation.score_file import score_file
from emoverse.inference.engine import Engine, model_folder
from emoverse.inference.test_sets import EvaluationSet, read_sets
from emoverse.media.frames import FrameStore

ROUNDS = 3
PAIRS = 100_000
EMOTIONS = ("disgust", "anger", "joy", "sadness", "surprise", "fear")


class Clock:
    """Wall seconds, and seconds of processor time with that of finished child processes (ms-swift maps rows in one)."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), _processor()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, _processor() - self._cpu


def _processor() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def swift_infer(model: Path, rows: Path, frames: FrameStore, batch_size: int, tokens: int) -> Any:
    """Return ms-swift's own inference, loaded, with our template and frames."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from swift.pipelines.infer.infer import SwiftInfer

    from emoverse.training.swift_setup import TEMPLATE, register_frames

    register_frames(frames)  # type: ignore[arg-type]
    flags = {
        "model": model,
        "model_type": "internvl",
        "template": TEMPLATE,
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
        from emoverse.inference.torch_engine import TorchBackend, load_model
        from emoverse.prompt import Encoder, settings_of_model

        self.backend, self.encoder = TorchBackend(load_model(folder)), Encoder(folder, settings_of_model(folder))
        self.frames, self.batch_size = frames, batch_size

    def answers(self, sets: Sequence[EvaluationSet]) -> list[str]:
        """Return the answers to all rows of the sets; no features are kept from the turn before."""
        engine = Engine(self.backend, self.encoder, self.frames, batch_size=self.batch_size)
        found: list[str] = []
        for one in sets:
            answers = one.answers
            found += [answers[i] for i in engine.score_answers(list(one.rows), answers)[1]]
        return found


def against_swift(
    folder: Path, sets: Sequence[EvaluationSet], ours: Ours, batch_size: int, tokens: int
) -> dict[str, Any]:
    """Time both ways of answering closed test sets, and compare their answers; ``batch_size`` is ms-swift's."""
    rows = [(row, one.answers) for one in sets for row in one.rows]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.jsonl"
        kept = ({key: row[key] for key in ("messages", "videos", "images")} for row, _ in rows)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), "utf-8")
        theirs = swift_infer(folder, path, ours.frames, batch_size, tokens)
        turns: list[tuple[Clock, Clock]] = []
        for turn in range(ROUNDS + 1):  # the first turn warms both up
            with Clock() as mine:
                our_replies = ours.answers(sets)
            with Clock() as swift:
                their_replies = [str(reply["response"]) for reply in theirs.run()]
            turns += [(mine, swift)] * bool(turn)
    equal = [a == b for (_, allowed), a, b in zip(rows, our_replies, their_replies, strict=True) if b in allowed]
    wall, swift_wall = (median(clock.wall for clock in column) for column in zip(*turns, strict=True))
    cpu, swift_cpu = (min(clock.cpu for clock in column) for column in zip(*turns, strict=True))
    return {
        "tests": ", ".join(one.name for one in sets),
        "rows": len(rows),
        "swift_batch": batch_size,
        "ours_rows_per_s": round(len(rows) / wall, 1),
        "swift_rows_per_s": round(len(rows) / swift_wall, 1),
        "ratio": round(swift_wall / wall, 2),
        "cpu_ratio": round(swift_cpu / cpu, 2),
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
        with Clock() as clock:
            score_file(path, "ecpe", bootstrap=1000)
        return {"replies": count, "wall_s": round(clock.wall, 2), "cpu_s": round(clock.cpu, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("data/stage2"))
    parser.add_argument("--amt", type=Path, default=Path("data/amt"))
    parser.add_argument("--validated", type=Path, nargs="+", default=sorted(Path("data/validated").glob("*/")))
    parser.add_argument("--batch-size", type=int, default=32)
    # 1 is what `swift infer` does unless told otherwise; which of the others is its best depends on the machine.
    parser.add_argument("--swift-batches", type=int, nargs="+", default=[1, 16, 32, 64])
    parser.add_argument("--tokens", type=int, default=8, help="most tokens ms-swift may generate; an answer has 2 to 4")
    args = parser.parse_args()
    print(json.dumps({"cause pairs": cause_pairs()}), flush=True)
    closed = [one for one in read_sets(args.amt) if one.answers]
    largest = max(closed, key=lambda one: len(one.rows))
    folder, frames = model_folder(args.model), FrameStore(args.validated)
    ours = Ours(folder, frames, args.batch_size)
    for sets in ([largest], closed):
        for batch_size in args.swift_batches:
            found = against_swift(folder, sets, ours, batch_size, args.tokens)
            print(json.dumps({"likelihood": found}), flush=True)


if __name__ == "__main__":
    main()
