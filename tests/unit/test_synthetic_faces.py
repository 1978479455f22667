import numpy as np
import pytest

from emoverse.synthetic.clips import render
from emoverse.synthetic.faces import (
    COLUMN,
    EMOTIONS,
    EXPRESSIVE_UNITS,
    OPENFACE_UNITS,
    PROTOTYPES,
    Expression,
    FaceStyle,
    Identity,
    animate,
    draw_peaks,
)


def draw(peaks, seed=3, size=64, n_frames=9, talk=0.0):
    expression = Expression(peaks, onset=0.0, apex=0.4, offset=0.8, talk=talk)
    return render(Identity.from_seed(7), expression, size, 12, n_frames, np.random.default_rng(seed))


def test_the_same_arguments_draw_the_same_pixels():
    assert np.array_equal(draw({12: 4.0}).frames, draw({12: 4.0}).frames)


def test_a_clip_has_the_size_and_units_asked_for():
    clip = draw({}, size=(80, 64), n_frames=5)
    assert clip.frames.shape == (5, 64, 80, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.units.shape == (5, len(OPENFACE_UNITS))


@pytest.mark.parametrize("unit", EXPRESSIVE_UNITS)
def test_every_action_unit_moves_the_face(unit):
    still, moved = draw({}).frames.astype(int), draw({unit: 5.0}).frames.astype(int)
    changed = np.abs(moved - still).max(axis=(1, 2, 3))
    assert changed[0] == 0
    assert changed[4] > 20


def test_intensities_start_at_zero_reach_the_peak_and_fall_in_part():
    course = draw({4: 3.5}, n_frames=31).units[:, COLUMN[4]]
    assert course[0] == 0
    assert course.max() == pytest.approx(3.5)
    assert 0 < course[-1] < 3.5


def test_talking_parts_the_lips_without_any_expression():
    units = draw({}, talk=0.9, n_frames=18).units
    assert units[:, COLUMN[25]].max() > 1.0
    assert units[:, COLUMN[12]].max() == 0


def test_a_seed_is_a_person():
    assert Identity.from_seed(5) == Identity.from_seed(5)
    assert Identity.from_seed(5) != Identity.from_seed(6)


def test_an_intensity_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"AU12 intensity 6\.0 is outside"):
        Expression({12: 6.0})


def test_a_unit_that_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="AU45 cannot be set"):
        Expression({45: 1.0})


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_an_emotion_mostly_moves_its_own_units(emotion):
    moved = [animate(emotion, np.random.default_rng(k), low=False).peaks for k in range(200)]
    own = sum(peak for peaks in moved for unit, peak in peaks.items() if unit in PROTOTYPES[emotion])
    stray = sum(peak for peaks in moved for unit, peak in peaks.items() if unit not in PROTOTYPES[emotion])
    assert own > 5 * stray if PROTOTYPES[emotion] else own == 0


def test_a_faint_performance_is_fainter_than_any_other():
    faint = animate("joy", np.random.default_rng(1), low=True).peaks
    strong = animate("joy", np.random.default_rng(1), low=False).peaks
    assert max(faint.values()) < max(strong.values())


def test_faces_with_only_shared_units_are_as_frequent_as_the_style_says():
    style = FaceStyle(partial=0.7, stray=0.0)
    whole = [len(draw_peaks("anger", np.random.default_rng(k), low=False, style=style)) > 3 for k in range(500)]
    # a whole prototype has four units, of which at least one is dropped in a third of the faces
    assert 0.1 < sum(whole) / 500 < 0.3


@pytest.mark.parametrize("mouth", [12, 15])
def test_the_mouth_says_whether_a_surprise_is_a_good_one(mouth):
    assert animate("surprise", np.random.default_rng(4), mouth=mouth).peaks[mouth] >= 1.5
    assert mouth not in animate("surprise", np.random.default_rng(4), style=FaceStyle(stray=0.0)).peaks
