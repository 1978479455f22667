"""Time and memory of building AMT, against parsing the same inputs and writing the same outputs and nothing else.

    python -m benchmarks.amt [--annotations FOLDER] [--scale 10000 100000 1000000]

The first part reads the real annotation files (MELD's CSVs, ECF's JSON, CMU-MOSEI's labels; its words are not among
them and are made up) and builds mixtures, exact audits and baselines. The floor reads the same files with pandas and
orjson and writes the very rows that came out with orjson. The near-duplicate audit is stated apart. The second part
builds from made-up utterances of several sizes, in CPU seconds, because a shared machine's clock says little; memory
is the peak resident set of a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from emoverse.amt.audit import (  # noqa: E402
    audit_corpora,
    near_duplicates_of,
    sides,
)
from emoverse.amt.build_amt import write_amt  # noqa: E402
from emoverse.amt.builder import stages  # noqa: E402
from emoverse.amt.corpus_table import CorpusTable  # noqa: E402
from emoverse.amt.reasons import RuleReasons  # noqa: E402
from emoverse.config import load_params  # noqa: E402
from emoverse.corpora import EMOTIONS, Utterance, ecf, meld, mosei  # noqa: E402  # noqa: E402

PARAMS = load_params(REPO / "params.yaml").amt
ROUNDS = 5
WORDS = [
    "so",
    "well",
    "the",
    "a",
    "of",
    "and",
    "bread",
    "train",
    "never",
    "on",
    "break",
    "apple",
    "door",
    "you",
    "we",
    "I",
    "know",
    "came",
    "went",
    "said",
    "told",
    "town",
    "boat",
]


def build(tables: list[CorpusTable], out: Path) -> None:
    plan = stages(PARAMS, [table.name for table in tables])
    write_amt(tables, plan, audit_corpora(tables, near_duplicates=False), RuleReasons(), PARAMS, out)


def read_all(folder: Path, labels: Path) -> list[CorpusTable]:
    test, train = folder / "ecf/Subtask_2_test.json", folder / "ecf/Subtask_2_train.rebuilt.json"
    rows = ecf.read_split(train, "train").utterances + ecf.read_split(test, "test").utterances
    return [CorpusTable(one) for one in (rows, meld.read(folder / "meld").utterances, mosei.read(labels).utterances)]


def floor(folder: Path, labels: Path, written: dict[str, list[Any]], out: Path) -> None:
    """Parse the inputs, write the outputs, do nothing between."""
    for name in ("train", "dev", "test"):
        pd.read_csv(folder / f"meld/{name}_sent_emo.csv")
    for name in ("Subtask_2_train.rebuilt.json", "Subtask_2_test.json"):
        orjson.loads((folder / "ecf" / name).read_bytes())
    pd.read_csv(labels / "label.csv", dtype={"video_id": str, "clip_id": str, "text": str})
    for name, rows in written.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as handle:
            if name.endswith(".jsonl"):
                handle.writelines(orjson.dumps(row) + b"\n" for row in rows)
            else:
                handle.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2))


def rows_below(out: Path) -> dict[str, list[Any]]:
    found = {}
    for path in sorted(out.rglob("*.json*")):
        raw = path.read_bytes()
        found[str(path.relative_to(out))] = (
            [orjson.loads(line) for line in raw.splitlines()] if path.suffix == ".jsonl" else orjson.loads(raw)
        )
    return found


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of processor and of wall clock."""
    gc.collect()
    gc.freeze()  # the rows that the benchmark keeps for the floor to write are not collected again
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def peak() -> float:
    """Return the process's largest resident set in MB; ru_maxrss would count the parent's too."""
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(found.split()[1]) / 1024


def made_labels(folder: Path, root: Path) -> Path:
    """Write label.csv with CMU-MOSEI's ids and labels and made-up words of a usual length."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    with (folder / "mosei/sentiment_labels.csv").open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    with (root / "label.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["video_id", "clip_id", "text", "label", "annotation", "mode"])
        for row in rows:
            words = " ".join(rng.choice(WORDS, size=int(rng.integers(5, 35))))
            writer.writerow([row["video_id"], row["clip_id"], words, row["label"], row["annotation"], row["mode"]])
    return root


def real(folder: Path, scratch: Path) -> None:
    labels, ours, floors, memory = made_labels(folder, scratch / "MOSEI"), [], [], 0.0
    for turn in range(ROUNDS):
        out = scratch / f"amt{turn}"
        out.mkdir()
        ours.append(timed(lambda out=out: build(read_all(folder, labels), out)))
        memory = memory or peak()  # of the first build: what follows reads its rows back for the floor
        written = rows_below(out)
        floors.append(timed(lambda turn=turn, rows=written: floor(folder, labels, rows, scratch / f"floor{turn}")))
        shutil.rmtree(out)
        shutil.rmtree(scratch / f"floor{turn}")
    tables = read_all(folder, labels)
    pairs = [sides(table) for table in tables]
    near, _ = timed(lambda: list(near_duplicates_of([test for test, _ in pairs], [other for _, other in pairs], set())))
    print(f"real annotations: {sum(len(table) for table in tables)} utterances, "
          f"{sum(len(rows) for name, rows in written.items() if name.endswith('.jsonl'))} rows")  # fmt: skip
    for clock, mine, least in zip(("CPU", "wall"), np.median(ours, axis=0), np.median(floors, axis=0), strict=True):
        print(f"  {clock}: build {mine:.2f} s, floor {least:.2f} s, ratio {mine / least:.2f} (limit: 8)")
    print(f"  peak {memory:.0f} MB (goal: 1000)")
    print(f"  near-duplicate audit apart: {near:.2f} s")


def made_up(size: int) -> Iterator[Utterance]:
    """Yield MELD-like utterances in dialogues of ten; half of them say what nobody else says."""
    rng = np.random.default_rng(size)
    words = rng.integers(len(WORDS), size=(size, 12))
    for i in range(size):
        split = "train" if (i // 10) % 10 < 8 else "test"
        stem = f"dia{i // 10}_utt{i % 10}"
        yield Utterance(
            utterance_id=f"meld/{split}/{stem}", corpus="meld", split=split, dialogue_id=str(i // 10), position=i % 10,
            speaker=("Ann", "Bob", "Cy")[i % 3], text=" ".join(WORDS[j] for j in words[i]) + f" {i}",
            emotion=EMOTIONS[i % 7], polarity=("negative", "neutral", "positive")[i % 3], sentiment=None,
            intensities=None, causes=(i % 10,), episode=f"S{i // 3000:02d}E{i // 300 % 10:02d}",
            start=float(i % 300) * 4, end=float(i % 300) * 4 + 3, clip=f"{split}/{stem}.mp4", source=f"made:{i}",
        )  # fmt: skip


def one_size(size: int, out: Path) -> dict[str, float]:
    """Build one size from the tables a validated folder would hold; call it in a process of its own."""
    from emoverse.artifacts import tables as schemas

    schemas.write_utterances(out / "utterances.parquet", made_up(size))
    section = PARAMS.stage2.__class__(corpora=("meld",), tasks={"mer": 1.0, "msa": 0.5, "ecpe": 0.3, "eri": 0.3})
    params = replace(PARAMS, stage1=section, stage2=section, leakage="report")
    built = out / "amt"
    built.mkdir()

    def work() -> None:
        table = CorpusTable.open(out)
        write_amt(
            [table],
            stages(params, ["meld"]),
            audit_corpora([table], near_duplicates=False),
            RuleReasons(),
            params,
            built,
        )

    (seconds, _), highest = timed(work), peak()
    written = sum(path.stat().st_size for path in built.rglob("*") if path.is_file()) / 1e6
    shutil.rmtree(built)
    test, other = sides(CorpusTable.open(out))
    near, _ = timed(lambda: deque(near_duplicates_of([test], [other], set()), maxlen=0))
    return {"size": size, "seconds": seconds, "peak": highest, "written": written, "near": near, "near_peak": peak()}


def scaled(sizes: Sequence[int]) -> None:
    """Print time and memory of made-up corpora, each built in a process of its own."""
    for size in sizes:
        command = [sys.executable, "-m", "benchmarks.amt", "--one", str(size)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPO).stdout)
        each, near = 1e6 * row["seconds"] / size, 1e6 * row["near"] / size
        built = f"{row['seconds']:.1f} s ({each:.0f} us each), peak {row['peak']:.0f} MB (goal: 2000)"
        apart = f"near-duplicates apart {row['near']:.1f} s ({near:.0f} us each), peak {row['near_peak']:.0f} MB"
        print(f"{size:>9} made-up: {built}, {row['written']:.0f} MB written; {apart}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, default=REPO.parent / "shared/data")
    parser.add_argument("--scale", type=int, nargs="*", default=[10_000, 100_000], metavar="N", help="sizes to make up")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="emoverse-amt-"))
    try:
        if args.one:
            print(json.dumps(one_size(args.one, scratch)))
            return
        if args.annotations.is_dir():
            real(args.annotations, scratch)
        else:
            print(f"real annotations: none at {args.annotations}")
        scaled(args.scale)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
