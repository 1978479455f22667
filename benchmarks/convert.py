"""Time and memory of ``emoverse convert`` on a random checkpoint with InternVL2-4B's shapes (bf16, sharded).

    python benchmarks/convert.py [--scratch FOLDER] [--layers N]

The checkpoint is generated, converted in a process of its own, and deleted. Peak memory is that process's largest
resident set, beside its set when everything is imported and the tokenizer is built, before the first weight is read. A
plain copy of the same files is timed in the same run, because the disk decides much of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from tests.factories.internvl2 import config, shapes, write_large_weights, write_tokenizer  # noqa: E402

SHARD = 4_900_000_000
NEEDED = 20_000_000_000  # bytes of disk for all layers: the checkpoint and one more of its size at a time
PROGRAM = """
import json, re, shutil, sys, time
from pathlib import Path
from emoverse.models import convert as step
# not getrusage: that remembers the process this one was started from
def peak(): return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
source, out = Path(sys.argv[1]), Path(sys.argv[2])
began = time.perf_counter(); ready = step.plan_conversion(source); checked = time.perf_counter() - began
before = peak(); (out / "model").mkdir(parents=True)
began = time.perf_counter(); step.write_model(ready, out / "model"); wrote = time.perf_counter() - began
alone = peak(); shutil.rmtree(out)
began = time.perf_counter(); step.convert(source, out); whole = time.perf_counter() - began
print(json.dumps({"parameters": ready.parameters, "check_s": checked, "write_s": wrote, "whole_step_s": whole,
                  "rss_before": before, "rss_peak_write": alone, "rss_peak_whole": peak()}))
"""


def phi3_4b(layers: int) -> dict[str, Any]:
    """Return the config of InternVL2-4B (Phi-3-mini and InternViT-300M)."""
    factors = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "type": "su"}
    text = {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 131072,
        "rope_scaling": factors,
        "sliding_window": 262144,
        "vocab_size": 32020,
    }
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 448,
    }
    return config("phi3", text=text, vision=vision, force_image_size=448, torch_dtype="bfloat16")


def noise(settings: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Draw weights fast: what they are does not matter here, that they are not zero does."""
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes(settings).items():
        bits = torch.randint(0, 1 << 14, shape, dtype=torch.int16, generator=generator)
        yield name, bits.view(torch.bfloat16)


def generate(folder: Path, layers: int) -> int:
    """Write the checkpoint below ``folder``; return how many bytes of weights it has."""
    settings = phi3_4b(layers)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings), "utf-8")
    write_tokenizer(folder, settings)
    write_large_weights(folder, noise(settings), limit=SHARD)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def copy_seconds(folder: Path, target: Path) -> float:
    """Time a copy of the weights through this process, synced as ``publish`` syncs."""
    began = time.perf_counter()
    target.mkdir()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as source, (target / path.name).open("wb") as sink:
            while block := source.read(1 << 24):
                sink.write(block)
            sink.flush()
            os.fsync(sink.fileno())
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="needs 20 GB for all layers")
    parser.add_argument("--layers", type=int, default=32, help="of the language model; 32 is the whole of it")
    args = parser.parse_args()
    if shutil.disk_usage(args.scratch).free < NEEDED * (args.layers + 4) / 36:
        sys.exit(f"{args.scratch} has too little room: give another --scratch, or fewer --layers")
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="convert-benchmark-") as name:
        work = Path(name)
        size = generate(work / "original", args.layers)
        largest = max(path.stat().st_size for path in (work / "original").glob("*.safetensors"))
        copied = copy_seconds(work / "original", work / "copy")
        shutil.rmtree(work / "copy")
        command = [sys.executable, "-c", PROGRAM, str(work / "original"), str(work / "out")]
        run = subprocess.run(command, check=True, cwd=REPO, stdout=subprocess.PIPE, text=True)
        found = json.loads(run.stdout.splitlines()[-1])
    found |= {"weights_bytes": size, "largest_shard_bytes": largest, "copy_s": copied}
    found["rss_peak_write_of_largest_shard"] = found["rss_peak_write"] / largest
    found["write_of_copy"] = found["write_s"] / copied
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
