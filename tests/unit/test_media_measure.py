"""Names that look like options, and py-feat's table."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emoverse.media.action_units import UNITS, OpenFace, from_feat
from tests.factories.clips import write_openface

FEAT = [*(unit.removesuffix("_r") for unit in UNITS if unit != "AU45_r"), "AU43"]


def test_a_clip_whose_name_looks_like_an_option_is_still_a_clip(tmp_path: Path) -> None:
    table = write_openface(tmp_path / "table.csv", [0.0, 1.0, 4.0])
    script = tmp_path / "FeatureExtraction"
    script.write_text(f'#!/bin/sh\ncase "$3" in -*) exit 9;; esac\ncp {table} "$5/$(basename -- "$3" .mp4).csv"\n')
    script.chmod(0o755)
    clip = tmp_path / "-f -x.mp4"
    clip.write_bytes(b"clip")
    found = OpenFace.at(script, "--action-units").measure(clip, 10.0)
    assert found is not None
    assert found.peak[0] == 2


def feat(**columns: object) -> pd.DataFrame:
    rows = {"frame": [0, 1, 1, 2], "FaceScore": [0.9, 0.7, 0.99, np.nan], **{unit: [0.1] * 4 for unit in FEAT}}
    return pd.DataFrame(rows | columns)


def test_py_feats_probabilities_become_intensities_of_the_surest_face() -> None:
    found = from_feat(feat(AU12=[0.2, 1.0, 0.5, 1.0], AU43=[0.0, 0.0, 0.25, 0.0]))
    assert found is not None
    assert found.frames.tolist() == [0, 1], "the frame without a face is left out"
    frame, units = found.peak
    named = dict(zip(UNITS, units, strict=True))
    assert (frame, named["AU12_r"], named["AU45_r"]) == (1, 1.0, 0.5)
    assert from_feat(feat(FaceScore=[np.nan] * 4)) is None


def test_another_table_is_not_taken_for_py_feats() -> None:
    with pytest.raises(ValueError, match="no column FaceScore"):
        from_feat(feat().drop(columns="FaceScore"))


@pytest.mark.skipif("feat" in sys.modules, reason="py-feat is installed")
def test_py_feat_is_not_imported_unless_it_is_asked_for() -> None:
    import emoverse.media.action_units  # noqa: F401

    assert "feat" not in sys.modules


def test_openface_runs_with_the_c_locale_and_its_last_line_is_shown(tmp_path: Path) -> None:
    script = tmp_path / "FeatureExtraction"
    script.write_text('#!/bin/sh\necho "starting"\necho "no face model in $LC_ALL"\n')
    script.chmod(0o755)
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"clip")
    with pytest.raises(ValueError, match="OpenFace wrote 0 tables instead of 1: no face model in C"):
        OpenFace.at(script, "--action-units").measure(clip, 60.0)
