"""Write the sample corpora: `python -m emoverse.synthetic OUT [--seed N] [--scale X] [--remote DIR]`."""

import argparse
from pathlib import Path

from emoverse.synthetic.corpora import CORPORA, DEFAULT_SEED, generate, store


def main() -> None:
    """Parse the command line, write the corpora and say what was written."""
    parser = argparse.ArgumentParser(prog="python -m emoverse.synthetic", description="write the sample corpora")
    parser.add_argument("out", type=Path, help="folder that receives MELD, ECF and MOSEI (replaced if there)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the number of utterances")
    parser.add_argument("--remote", type=Path, help="also store the folders in this DVC remote")
    options = parser.parse_args()
    generate(options.out, options.seed, options.scale)
    for name in CORPORA:
        files = [path for path in (options.out / name).rglob("*") if path.is_file()]
        clips = sum(path.suffix == ".mp4" for path in files)
        digest = f", md5 {store(options.out / name, options.remote)}" if options.remote else ""
        size = sum(path.stat().st_size for path in files)
        print(f"{name}: {clips} clips, {len(files)} files, {size:,} bytes{digest}")


if __name__ == "__main__":
    main()
