"""Measure what orchestration costs: `dvc repro` and Kubeflow's local runner against the step functions in one script.

Each way makes the whole sample from nothing in a fresh checkout; the digests must be equal. Then a `dvc repro` with
nothing to do against a bare DVC project of as many stages. ``python -m benchmarks.orchestration`` takes three times a
`make run`; ``--short`` trains little and so shows an upper bound: starting processes weighs more. ``--noop``
measures the last alone. Processor time stands beside wall time, for a busy machine stretches the latter.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import yaml

from tests.factories.checkout import SHORT, Checkout, checkout

RAW = ("MELD", "ECF", "MOSEI")
ROUNDS = 5  # of what takes a second
REPRO, LOCAL, NOOP = 1.25, 1.35, 1.5  # the most each may cost, as a multiple of its baseline


@dataclass(frozen=True)
class Spent:
    """Wall seconds and processor seconds of a command, its children included."""

    wall: float
    cpu: float

    def against(self, other: Spent, most: float) -> str:
        """Return both ratios to a baseline, beside the most that is asked."""
        ratios = f"{self.wall / other.wall:.2f}x wall, {self.cpu / other.cpu:.2f}x processor"
        return f"{self.wall:6.1f} s wall, {self.cpu:6.1f} s processor: {ratios} (asked: at most {most}x)"


def spent(folder: Path, *words: str) -> Spent:
    """Run a command of this environment in a folder and return what it took; raise RuntimeError when it fails."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    env |= {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} exited {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def in_one_script(out: Path) -> None:
    """Call every step function of the sample in this process."""
    from emoverse.amt.build_amt import build_amt
    from emoverse.config import load_params
    from emoverse.evaluation.evaluate import evaluate
    from emoverse.export.export import export
    from emoverse.models.base_model import base_model
    from emoverse.report.report import report
    from emoverse.training.train import train
    from emoverse.validation.amt_rows import check_folder
    from emoverse.validation.validate import validate

    params = load_params()
    corpora = []
    for name, one in params.corpora.items():
        corpora.append(out / "validated" / name)
        validate(name, Path(one.root), corpora[-1], params.media, params.validation)
    amt, base, first, second = (out / name for name in ("amt", "base", "stage1", "stage2"))
    build_amt(corpora, amt, params.amt, check=check_folder)
    base_model(base, params.base_model, params.media)
    train("stage1", base, amt, corpora, first, params.stage1)
    train("stage2", first, amt, corpora, second, params.stage2)
    evaluate(second, amt, corpora, out / "scores", params.evaluate)
    export(second, out / "onnx", params.export, amt=amt, validated=corpora, scores=out / "scores")
    report(corpora, amt, [base, first, second], out / "scores", out / "onnx", out / "reports")


def digest(folder: Path) -> str:
    """Return the digest of an output."""
    return str(json.loads((folder / "manifest.json").read_text("utf-8"))["outputs"]["digest"])


def fresh(root: Path, short: bool) -> Checkout:
    """Return a checkout with the raw sample in it."""
    copy = checkout(root)
    if short:
        copy.set_params(SHORT)
    copy.run("dvc", "pull", "--quiet", *(f"data/raw/sample/{name}.dvc" for name in RAW))
    return copy


def whole(root: Path, short: bool) -> Checkout:
    """Run the sample in the three ways and print what each took; return the checkout where DVC ran."""
    copy = fresh(root / "one", short)
    script = spent(copy.root, sys.executable, "-m", "benchmarks.orchestration", "--script", str(root / "script"))
    print(f"step functions in one script  {script.wall:6.1f} s wall, {script.cpu:6.1f} s processor", flush=True)
    local = spent(copy.root, "emoverse", "run-local", "--root", str(root / "kubeflow"))
    print(f"emoverse run-local            {local.against(script, LOCAL)}", flush=True)
    repro = spent(copy.root, "dvc", "repro", "--quiet")
    print(f"dvc repro                     {repro.against(script, REPRO)}", flush=True)
    for name in ("scores", "onnx", "reports"):
        here = copy.root / ("reports" if name == "reports" else f"data/{name}")
        there = root / "kubeflow/latest" / here.relative_to(copy.root)
        assert digest(root / "script" / name) == digest(here) == digest(there), f"{name} differs"
    print("equal digests all three ways", flush=True)
    return copy


def bare(root: Path, stages: int) -> Path:
    """Make a DVC project of ``stages`` stages that copy one small file each, in a chain, and run it once."""
    root.mkdir()
    (root / "0").write_text("0", "utf-8")
    chain = {f"s{n}": {"cmd": f"cp {n} {n + 1}", "deps": [str(n)], "outs": [str(n + 1)]} for n in range(stages)}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": chain}), "utf-8")
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "repro", "-q"]):
        spent(root, *words)
    return root


def nothing_to_do(root: Path, copy: Checkout) -> None:
    """Print what a `dvc repro` takes that has nothing to do, here and in a bare project of as many stages."""
    stages = len(copy.run("dvc", "stage", "list", "--name-only").splitlines())
    other = bare(root / "bare", stages)
    rounds = [(spent(other, "dvc", "repro"), spent(copy.root, "dvc", "repro")) for _ in range(ROUNDS)]
    floor, ours = (Spent(median(r[n].wall for r in rounds), median(r[n].cpu for r in rounds)) for n in (0, 1))
    print(f"bare `dvc repro`, {stages} stages    {floor.wall:6.1f} s wall, {floor.cpu:6.1f} s processor")
    print(f"cached `dvc repro`            {ours.against(floor, NOOP)}", flush=True)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="train little: an upper bound, sooner")
    parser.add_argument("--noop", action="store_true", help="only the `dvc repro` with nothing to do")
    parser.add_argument("--script", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.script:
        in_one_script(args.script)
        return
    with tempfile.TemporaryDirectory(prefix="orchestration-") as folder:
        root = Path(folder)
        if args.noop:
            copy = fresh(root / "one", short=True)
            spent(copy.root, "dvc", "repro", "--quiet")
        else:
            copy = whole(root, args.short)
        nothing_to_do(root, copy)


if __name__ == "__main__":
    main()
