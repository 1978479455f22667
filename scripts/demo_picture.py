"""Take the picture of the demo page: `python scripts/demo_picture.py`, after `make run`. Needs chromium.

The first test clip of MELD that shows surprise is asked about, so that the picture follows the sample.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from emoverse.artifacts.tables import read_utterances
from emoverse.config import load_params
from emoverse.serving.clips import Limits
from emoverse.serving.demo import serving
from emoverse.serving.predictor import load_predictor

REPO = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1180, 815
READY = "document.querySelector('#answer-mer').innerText.includes('%')"


def main() -> None:
    """Parse the command line and take the picture."""
    parser = argparse.ArgumentParser(description="take the picture of the demo page")
    parser.add_argument("--model", type=Path, default=Path("data/onnx"))
    parser.add_argument("--validated", type=Path, default=Path("data/validated/meld"))
    parser.add_argument("--out", type=Path, default=REPO / "docs/images/demo.png")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium on the PATH: install it, or set PATH to where it is")
    rows = read_utterances(args.validated / "utterances.parquet")
    chosen = next(row for row in rows if row.split == "test" and row.emotion == "surprise")
    clip = Path(load_params().corpora["meld"].root) / chosen.clip
    limits = Limits(size=64 << 20, seconds=60.0)  # those of `emoverse demo`
    with serving(load_predictor(args.model, limits)) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(address)
        page.wait_for_selector("#ask")
        page.set_input_files("#clip input[type=file]", clip)
        page.wait_for_selector("#clip video", state="attached")
        page.fill("#words textarea", chosen.text)
        page.click("#ask")
        page.wait_for_function(READY)
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(2000)  # the bars grow, and the controls of the video fade
        with tempfile.TemporaryDirectory() as folder:
            page.screenshot(path=Path(folder) / "page.png")
            picture = Image.open(Path(folder) / "page.png").convert("RGB").quantize(256, dither=Image.Dither.NONE)
        picture.save(args.out, optimize=True)
        browser.close()
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
