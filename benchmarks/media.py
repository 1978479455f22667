"""Measure the media pass against bare decord, and reading shards against decoding the clips again each epoch.

Every figure is a ratio of two timings taken in turn in one run, so that a busy machine hurts both alike; the CPU ratio
hardly depends on the load. Bare decord reads the same frames of the same clips in one process, one after the other,
and does nothing with them; the pass also probes, resizes, encodes, checks and stores them.
Run: ``python -m benchmarks.media`` (about two minutes), ``--memory 2000 20000`` measures the memory of whole
``validate`` runs over so many small clips instead.
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

import av
import numpy as np
from PIL import Image

from emoverse.config import MediaParams, ValidationParams
from emoverse.media.decode import uniform
from emoverse.media.extract import extract, records
from emoverse.media.frames import FrameStore, write_index
from emoverse.media.workers import Task
from tests.factories.meld import make_meld

ROUNDS = 5  # many short ones: another's work then hurts all sides of a ratio alike
MEDIA = MediaParams(frames=8, size=448, crop="squash", colour="rgb", encoding="jpeg", timeout=60.0)
SECONDS = (2.0, 3.0, 4.0, 6.0)  # lengths of clips; MELD's mean is 3.1


def film(path: Path, seconds: float, seed: int) -> Path:
    """Write a clip like MELD's: 1280x720, 24 frames a second, x264's defaults, with grain some 220 kB a second."""
    rng = np.random.default_rng(seed)

    def texture(width: int, height: int, grain: int) -> np.ndarray:
        coarse = rng.integers(0, 256, (height // grain, width // grain, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))

    room, person = texture(1600, 900, 10), texture(400, 500, 12)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for n in range(int(24 * seconds)):
            x, y = int(40 + 30 * np.sin(n / 11)), int(40 + 20 * np.cos(n / 17))
            picture = room[y : y + 720, x : x + 1280].astype(np.int16)
            x, y = int(440 + 200 * np.sin(n / 9)), int(120 + 60 * np.sin(n / 5))
            picture[y : y + 500, x : x + 400] = person
            picture += rng.integers(-3, 4, (720, 1280, 1), dtype=np.int16)
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def tasks_of(clips: list[Path]) -> list[Task]:
    return [
        Task(clip_id=f"{n:06d}", clip=path.name, path=path, units=None, params=MEDIA) for n, path in enumerate(clips)
    ]


def bare_decord(clips: list[Path], frames: int) -> None:
    """Read the same frames as the pass does, and do nothing with them."""
    import decord

    for path in clips:
        reader = decord.VideoReader(str(path), num_threads=1)
        count = len(reader)
        reader.get_batch(sorted({*uniform(count, frames), count // 2})).asnumpy()


def the_pass(clips: list[Path], folder: Path, workers: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    extract(tasks_of(clips), folder / "frames", fingerprint="benchmark", workers=workers)


def took(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of wall time and of this process's CPU that a piece of work takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


class Workers:
    """The CPU time of this process's descendants, read twenty times a second: nobody waits for the workers."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while True:
            self._seen.update({pid: used for pid in tree(os.getpid()) if (used := cpu_of(pid)) is not None})
            if self._done.wait(0.05):
                return

    def __enter__(self) -> Workers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._seen.pop(os.getpid(), None)
        self.cpu = sum(self._seen.values())


def passed(clips: list[Path], folder: Path, workers: int) -> tuple[float, ...]:
    """Return the wall time of a pass, the CPU of parent and workers, and the parent's part of it.

    A worker's start takes half a second, whatever the number of clips: the pass over one clip of each length is taken
    off the pass over all.
    """
    figures = []
    for some in (clips[: len(SECONDS)], clips):
        with Workers() as server:
            pass
        with Workers() as watched:
            wall, parent = took(lambda some=some: the_pass(some, folder, workers))
        figures.append((wall, watched.cpu - server.cpu + parent, parent))
    return tuple(b - a for a, b in zip(*figures, strict=True))


def throughput(clips: list[Path], folder: Path) -> dict[str, float]:
    """Return the whole pass's frames a second over bare decord's, on one core and on two, and the same in CPU time.

    Two workers need two cores to themselves for the wall time to mean anything; the CPU that a pass takes with two
    workers, over that with one, and the parent's share say what two cores would give.
    """
    counted = clips[len(SECONDS) :]
    frames = len(counted) * (MEDIA.frames + 1)
    bare_decord(clips[:1], MEDIA.frames)
    the_pass(clips[:1], folder, 1)  # starts the fork server, which takes seconds once
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        bare, bare_cpu = took(lambda: bare_decord(counted, MEDIA.frames))
        one, one_cpu, parent = passed(clips, folder, 1)
        two, two_cpu, _ = passed(clips, folder, 2)
        for name, value in {
            "bare decord, frames a second": frames / bare,
            "bare decord, frames a CPU second": frames / bare_cpu,
            "pass with one worker / bare decord": bare / one,
            "pass with two workers / bare decord": bare / two,
            "pass with two workers / pass with one": one / two,
            "CPU of bare decord / CPU of the pass": bare_cpu / one_cpu,
            "CPU of the pass with two workers / with one": two_cpu / one_cpu,
            "parent's share of the pass's CPU": parent / one_cpu,
        }.items():
            found.setdefault(name, []).append(value)
    return {name: median(values) for name, values in found.items()}


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

    pairs = [(took(swift)[1], took(shards)[1]) for _ in range(3)]
    raw, stored = (sum(p.stat().st_size for p in files) for files in (clips, (folder / "frames").glob("*.tar")))
    return {
        "CPU of decoding mp4 each epoch / CPU of loading from shards": median(a / b for a, b in pairs),
        "bytes of shards / bytes of mp4": stored / raw,
    }


def memory(counts: list[int], folder: Path) -> dict[str, float]:
    """Return the peak memory (MB, all processes) of `validate` over many small clips; content repeats, files do not."""
    found = {}
    for count in counts:
        raw = make_meld(folder / f"MELD{count}", {"train": count - 200, "dev": 100, "test": 100})
        size = sum(path.stat().st_size for path in raw.rglob("*.mp4"))
        words = "import sys; from benchmarks.media import long_pass; long_pass(*sys.argv[1:])"
        out = folder / f"out{count}"
        child = subprocess.Popen([sys.executable, "-c", words, str(raw), str(out)])
        peak, done, began = 0.0, threading.Event(), time.perf_counter()
        while child.poll() is None:
            peak = max(peak, sum(resident(pid) for pid in tree(child.pid)))
            done.wait(0.2)
        assert child.returncode == 0
        found[f"peak memory, {count} clips (MB)"] = peak / 2**20
        found[f"seconds, {count} clips"] = time.perf_counter() - began
        shards = sum(path.stat().st_size for path in (out / "frames").iterdir())
        found[f"bytes of shards / bytes of mp4, {count} clips"] = shards / size
        shutil.rmtree(raw)
    return found


def long_pass(raw: str, out: str) -> None:
    from emoverse.validation.validate import validate

    media = MediaParams(frames=8, size=64, encoding="jpeg", timeout=60.0)
    limits = ValidationParams(max_quarantined=0.1, min_duration=0.2, max_duration=60.0, max_duration_gap=2.0)
    validate("meld", Path(raw), Path(out), media, limits, workers=2)


def tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from tree(int(child))
    except OSError:
        return


def cpu_of(pid: int) -> float | None:
    """Return the seconds of CPU a process has used, None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Return a process's proportional share of memory in bytes, so that shared libraries count once."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * int(next((line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")), "0"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12, help=f"clips like MELD's, of {SECONDS} s in turn")
    parser.add_argument("--memory", type=int, nargs="*", default=[], metavar="COUNT", help="clips of the long passes")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.memory:
            result = memory(args.memory, folder)
        else:
            films = [film(folder / f"{n}.mp4", seconds, n) for n, seconds in enumerate(SECONDS)]
            clips = [folder / "clips" / f"{n:06d}.mp4" for n in range(args.clips)]
            clips[0].parent.mkdir()
            for n, path in enumerate(clips):
                shutil.copy(films[n % len(films)], path)
            result = throughput(clips, folder / "out") | loading(clips, folder / "out")
    result["load average"] = os.getloadavg()[0]
    print(json.dumps({key: round(value, 3) for key, value in result.items()}, indent=2))


if __name__ == "__main__":
    main()
