"""Measure whether the sample is really learned: all tasks, three seeds, two controls, and a run on shuffled labels.

Needs ``data/validated``, ``data/amt`` and ``data/base`` as ``make run`` leaves them. Each seed trains both stages;
baselines are the best trivial answers of the same test sets. The controls hide the frames or the words from the same
model. With shuffled labels every answer goes to another row of its task and corpus: the scores must fall to the
baseline or below it, else something but the labels tells the answer. Seed 42 is that of params.yaml, chosen before any
score was known; all seeds are printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from emoverse.artifacts.manifest import open_source, publish
from emoverse.tasks import rank, task

CONTROLS = {"text_only": "words only", "face_only": "face only"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--keep", type=Path, help="folder to keep the models in; what is there is not made again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.keep or Path(temporary)).absolute()
        measure(args.data.absolute(), args.seeds, work)


def measure(data: Path, seeds: list[int], work: Path) -> None:
    """Train and score every seed, then the shuffled labels with the first seed's base model; print a table."""
    runs = {}
    for seed in seeds:
        runs[f"seed {seed}"] = scores(data, data / "amt", work, seed, f"seed-{seed}")
    if not (work / "shuffled-amt" / "manifest.json").is_file():
        shuffle(data / "amt", work / "shuffled-amt", seeds[0])
    control = scores(data, work / "shuffled-amt", work, seeds[0], "shuffled")
    for name in sorted(control.keys() - {"tests"}, key=rank):
        metric = task(name).headline
        print(f"\n{name}: {metric} (n = {control[name]['n']}), with 95 % intervals")
        for run, result in [*runs.items(), ("shuffled labels", control)]:
            print(line(run, result[name], metric))
        values = np.array([run[name][metric] for run in runs.values()])
        print(
            f"  mean {values.mean():.3f}, lowest {values.min():.3f}, highest {values.max():.3f} over {len(seeds)} seeds"
        )
        for key, title in CONTROLS.items():
            if key in control[name]:
                print(f"  {title}: {gaps([run[name] for run in runs.values()], metric, key)}")


def line(name: str, score: dict[str, float], metric: str) -> str:
    """Return a run's score, its baseline and its controls."""
    cells = [f"{score[metric]:.3f} [{score['low']:.3f}, {score['high']:.3f}]", f"baseline {score['baseline']:.3f}"]
    for key, title in CONTROLS.items():
        if key in score:
            cells.append(f"{title} {score[key]:.3f} [{score[key + '_low']:.3f}, {score[key + '_high']:.3f}]")
    if score["unparsable"]:
        cells.append(f"{score['unparsable'] / score['n']:.1%} unparsable")
    return f"  {name:16} " + "  ".join(cells)


def gaps(runs: list[dict[str, float]], metric: str, control: str) -> str:
    """Say how far a control stays below the whole model over all seeds, and whether their intervals overlap."""
    points = [100 * (run[metric] - run[control]) for run in runs]
    apart = all(run[f"{control}_high"] < run["low"] for run in runs)
    found = f"{min(points):.1f} to {max(points):.1f} points below both"
    return f"{found}; intervals {'do not overlap' if apart else 'overlap'}"


def scores(data: Path, amt: Path, work: Path, seed: int, name: str) -> dict[str, dict[str, float]]:
    """Train both stages from the base model and return the metrics on the test sets."""
    common = ["--amt", amt, "--validated", data / "validated"]
    for stage, model in (("stage1", data / "base"), ("stage2", work / f"{name}-stage1")):
        out = work / f"{name}-{stage}"
        emoverse("train", "--stage", stage, "--model", model, *common, "--out", out, "--set", f"{stage}.seed={seed}")
    emoverse("evaluate", "--model", work / f"{name}-stage2", *common, "--out", work / f"{name}-scores")
    return dict(json.loads((work / f"{name}-scores" / "metrics.json").read_text("utf-8")))


def shuffle(amt: Path, out: Path, seed: int) -> None:
    """Publish a copy of an AMT dataset in which every train answer belongs to another row of its task and corpus."""
    source = open_source(amt, made_by="build-amt")
    with publish(out, step="build-amt", name="shuffled", params={"seed": seed}, inputs={"amt": source}) as draft:
        for path in sorted(amt.rglob("*.jsonl")):
            target = draft.path / path.relative_to(amt)
            target.parent.mkdir(parents=True, exist_ok=True)
            rows = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
            if path.parent == amt and path.name.startswith("stage"):
                _shuffle_answers(rows, np.random.default_rng(seed))
            target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        for name in ("audit.json", "baselines.json"):
            (draft.path / name).write_bytes((amt / name).read_bytes())


def _shuffle_answers(rows: list[dict[str, object]], rng: np.random.Generator) -> None:
    groups = defaultdict(list)
    for row in rows:
        groups[(row["task"], row["corpus"])].append(row["messages"])
    for _, messages in sorted(groups.items()):
        answers = [one[-1]["content"] for one in messages]  # type: ignore[index]
        for one, k in zip(messages, rng.permutation(len(answers)), strict=True):
            one[-1]["content"] = answers[k]  # type: ignore[index]


def emoverse(*words: object) -> None:
    """Run a command quietly, unless its output is there; show what it printed when it fails."""
    if (Path(str(words[words.index("--out") + 1])) / "manifest.json").is_file():
        return
    done = subprocess.run([sys.executable, "-m", "emoverse.cli", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"emoverse {words[0]} failed:\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    main()
