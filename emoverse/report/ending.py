"""Tell how a run ended, for those who look at a folder or at the Kubeflow UI."""

from __future__ import annotations

import shutil
from pathlib import Path

from emoverse.errors import UserError
from emoverse.manifest import write_json

PAGE, STATUS = "index.html", "status.json"


def publish_page(page: Path, run: str, publish: str) -> None:
    """Copy a run's report into its folder below ``publish``, whole or not at all."""
    folder = _folder(run, publish)
    draft = folder / f".{PAGE}.tmp"
    shutil.copyfile(page, draft)
    draft.replace(folder / PAGE)


def tell(run: str, *, name: str, state: str, task: str, problem: str, publish: str = "") -> str:
    """Return a run's end as Markdown; with ``publish``, also write ``status.json`` beside the run's report there.

    ``run`` is its id, which no other has and any folder may be called; ``name`` is what a person called it.
    """
    lines = [f"# {name}: {state}", ""]
    if state != "SUCCEEDED":
        lines += [f"Stopped in `{task}`" + (f": {problem}" if problem else "."), ""]
        lines += ["The failed step's own words are in its log; a new run takes finished steps from the cache.", ""]
    if publish:
        folder = _folder(run, publish)
        reported = (folder / PAGE).is_file()
        end = {"run": run, "name": name, "state": state, "task": task, "problem": problem}
        write_json(folder / STATUS, {**end, "report": reported})
        lines.append(f"Report: `{folder / PAGE}`" if reported else f"No report was written to `{folder}`.")
    return "\n".join(lines).rstrip() + "\n"


def _folder(run: str, publish: str) -> Path:
    root = Path(publish)
    if not root.is_dir():
        raise UserError("no such folder", place=publish, remedy="mount the volume of the cluster profile's `publish`")
    if Path(run).name != run or run in ("", ".", ".."):
        raise UserError(f"{run!r} is no name for a folder", place="run", remedy="give the run a plain name")
    folder = root / run
    folder.mkdir(exist_ok=True)
    return folder
