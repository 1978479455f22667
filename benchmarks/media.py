"""Measure the media pass against bare decord, and reading shards against decoding the clips again each epoch.

Every figure is a ratio of two timings taken in turn in one run, so that a busy machine hurts both alike.
Run: ``python -m benchmarks.media`` (about a minute), ``--memory 2000 20000`` adds the memory of two long passes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from emoverse.media.extract import extract, records
from emoverse.media.frames import FrameStore, write_index
from emoverse.media.sampling import uniform
from emoverse.media.work import Task
from emoverse.params import MediaParams
from tests.factories.clips import write_clip

ROUNDS = 3
MEDIA = MediaParams(frames=8, size=448, crop="squash", colour="rgb", encoding="jpeg", timeout=60.0)


def tasks_of(clips: list[Path], media: MediaParams) -> list[Task]:
    return [
        Task(clip_id=f"{n:06d}", clip=path.name, path=path, units=None, params=media) for n, path in enumerate(clips)
    ]


def bare_decord(clips: list[Path], frames: int) -> None:
    """Read the same frames as the pass does, and do nothing with them."""
    import decord

    for path in clips:
        reader = decord.VideoReader(str(path), num_threads=1)
        count = len(reader)
        reader.get_batch(sorted({*uniform(count, frames), count // 2})).asnumpy()


def the_pass(clips: list[Path], folder: Path, workers: int, media: MediaParams = MEDIA) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    extract(tasks_of(clips, media), folder / "frames", fingerprint="benchmark", workers=workers)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def throughput(clips: list[Path], folder: Path) -> dict[str, float]:
    """Return the pass's clips a second over bare decord's on one core, and what a second core adds.

    Starting the workers takes seconds once, whatever the number of clips: it is left out by timing the pass over all
    clips and over a quarter of them, and taking the difference.
    """
    few, more = clips[: len(clips) // 4], len(clips) - len(clips) // 4
    bare_decord(few[:1], MEDIA.frames)
    the_pass(few[:1], folder, 2)
    bare, passes, in_process = [], {1: [0.0] * ROUNDS, 2: [0.0] * ROUNDS}, []
    for turn in range(ROUNDS):
        bare.append(more / seconds(lambda: bare_decord(clips[len(few) :], MEDIA.frames)))
        for workers, rates in passes.items():
            short = seconds(lambda workers=workers: the_pass(few, folder, workers))
            rates[turn] = more / (seconds(lambda workers=workers: the_pass(clips, folder, workers)) - short)
        in_process.append(cpu(lambda: bare_decord(few, MEDIA.frames)) / cpu(lambda: work_of(few)))
    return {
        "bare decord, clips a second": median(bare),
        "pass on one core / bare decord": median(p / b for p, b in zip(passes[1], bare, strict=True)),
        "pass on two cores / pass on one": median(two / one for one, two in zip(*passes.values(), strict=True)),
        "CPU of bare decord / CPU of a worker's whole work": median(in_process),
    }


def work_of(clips: list[Path]) -> None:
    """Do in this process what a worker does."""
    from emoverse.media.work import process

    for task in tasks_of(clips, MEDIA):
        assert process(task).probe


def cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def loading(clips: list[Path], folder: Path) -> dict[str, float]:
    """Return how much faster frames come from shards than from ms-swift's video loader, both at model size."""
    from transformers.video_utils import load_video  # what ms-swift's internvl_hf template calls

    from emoverse.media.transform import picture

    rows = ((r.clip_id, kind, n, f, slot) for r in records(folder / "frames") for kind, n, f, slot in r.slots)
    write_index(folder / "frames" / "index.parquet", rows)
    store = FrameStore([folder])

    def swift() -> None:
        for path in clips:
            video, _ = load_video(str(path), backend="pyav")
            for index in uniform(len(video), MEDIA.frames):
                picture(video[index], MEDIA)

    def shards() -> None:
        for number in range(len(clips)):
            store[f"clip:{number:06d}"]

    pairs = [(seconds(swift), seconds(shards)) for _ in range(ROUNDS)]
    raw, stored = (sum(p.stat().st_size for p in files) for files in (clips, (folder / "frames").glob("*.tar")))
    return {
        "loading from shards / decoding mp4": median(a / b for a, b in pairs),
        "bytes of shards / bytes of mp4": stored / raw,
    }


def memory(counts: list[int], folder: Path) -> dict[str, float]:
    """Return the peak memory (MB, all processes) of a pass over many small clips; content repeats, files do not."""
    clip = write_clip(folder / "small.mp4", frames=24, size=(160, 96))
    found = {}
    for count in counts:
        root = folder / f"clips{count}"
        root.mkdir()
        paths = [root / f"{n:06d}.mp4" for n in range(count)]
        for path in paths:
            shutil.copy(clip, path)
        code = f"import sys; from benchmarks.media import long_pass; long_pass({str(root)!r}, {str(folder / 'long')!r})"
        child = subprocess.Popen([sys.executable, "-c", code])
        peak, done = 0.0, threading.Event()
        while child.poll() is None:
            peak = max(peak, sum(resident(pid) for pid in tree(child.pid)))
            done.wait(0.2)
        assert child.returncode == 0
        found[f"peak memory, {count} clips (MB)"] = peak / 2**20
        shutil.rmtree(root)
    return found


def long_pass(root: str, out: str) -> None:
    the_pass(sorted(Path(root).iterdir()), Path(out), 2, MediaParams(frames=8, size=64, encoding="jpeg", timeout=60.0))


def tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from tree(int(child))
    except OSError:
        return


def resident(pid: int) -> int:
    """Return a process's proportional share of memory in bytes, so that shared libraries count once."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * int(next((line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")), "0"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24, help="clips of 3 s, 1280x720, as MELD's")
    parser.add_argument("--memory", type=int, nargs="*", default=[], metavar="COUNT", help="clips of the long passes")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = write_clip(folder / "clip.mp4", frames=72, size=(1280, 720), key_every=48)
        clips = [folder / "clips" / f"{n:06d}.mp4" for n in range(args.clips)]
        clips[0].parent.mkdir()
        for path in clips:
            shutil.copy(clip, path)
        result = throughput(clips, folder / "out") | loading(clips, folder / "out") | memory(args.memory, folder)
    print(json.dumps({key: round(value, 3) for key, value in result.items()}, indent=2))


if __name__ == "__main__":
    main()
