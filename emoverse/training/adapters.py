"""Go on with the adapter that an earlier stage left."""

from __future__ import annotations

import json
from pathlib import Path

from emoverse.errors import UserError
from emoverse.manifest import Source, open_source
from emoverse.params import TrainParams

_KEYS = {"r": "lora_rank", "lora_alpha": "lora_alpha"}


def adapter_base(stage: Source, base: Path | None, params: TrainParams) -> Source:
    """Open the base model that the adapter of ``stage`` belongs to.

    Raises UserError when there is no base or another one, or when the adapter is not what the parameters ask for.
    """
    place = str(stage.path)
    made_by = f"{stage.manifest['step']} {stage.manifest['name']}"
    if stage.manifest["step"] != "train":
        remedy = "set start: merged for a stage that starts from a base model"
        raise UserError(f"start: adapter, but {made_by!r} left no adapter", place=place, remedy=remedy)
    if base is None:
        raise UserError("start: adapter needs the base model too", place=place, remedy="give it with --base")
    source = open_source(base)
    if source.digest != stage.manifest["inputs"].get("base", stage.manifest["inputs"]["model"]):
        raise UserError(f"the adapter was trained on another model than {base}", place=place, remedy="give that one")
    path = stage.path / "adapter" / "adapter_config.json"
    if not path.is_file():
        remedy = "set start: merged, as the stage before trained every weight"
        raise UserError("start: adapter, but the stage has none", place=place, remedy=remedy)
    config = json.loads(path.read_text("utf-8"))
    wanted = {key: getattr(params, name) for key, name in _KEYS.items()}
    differing = [f"{_KEYS[key]} {config.get(key)}" for key, value in wanted.items() if config.get(key) != value]
    whole = bool(config.get("modules_to_save"))
    if whole != (params.projector == "full"):
        differing.append(f"projector {'full' if whole else 'not full'}")
    if differing:
        remedy = "set the same in params.yaml for both stages, or start: merged"
        raise UserError(f"the adapter has {', '.join(differing)}", place=str(path), remedy=remedy)
    return source
