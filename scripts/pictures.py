"""Take the picture of the page that README shows: `python scripts/pictures.py [REPORT]`, after `make run`.

Needs chromium. The picture is the page's first screen, 1280 pixels wide, in at most 256 colours.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 1280, 1000
OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "report.png"


def main() -> None:
    """Parse the command line and take the picture."""
    parser = argparse.ArgumentParser(description="take the picture of the page that README shows")
    parser.add_argument("page", type=Path, nargs="?", default=Path("reports/index.html"))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium on the PATH: install it, or set PATH to where it is")
    if not args.page.is_file():
        sys.exit(f"{args.page} is missing: `make run` first, or name the page")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        size = [f"--window-size={WIDTH},{HEIGHT}", "--hide-scrollbars", "--force-device-scale-factor=1"]
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", *size, f"--screenshot={shot}"]
        subprocess.run([*command, args.page.resolve().as_uri()], check=True, capture_output=True)
        picture = Image.open(shot).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        picture.save(args.out, optimize=True)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
