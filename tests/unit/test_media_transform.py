"""What the model sees: proportions, colour, and exact storage."""

import io

import numpy as np
import pytest
from PIL import Image

from emoverse.config import MediaParams
from emoverse.media.transform import centred_square, decode, encode, picture, resize, shape_of
from tests.factories.clips import picture as drawn


def media(**changes: object) -> MediaParams:
    return MediaParams(**{"frames": 4, "size": 64, "timeout": 10.0, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "height"), [(320, 180), (1280, 720), (333, 517)])
def test_rgb_at_448_is_internvl2s_own_transform(width: int, height: int) -> None:
    noise = np.random.default_rng(1).integers(-30, 30, (height, width, 3))
    frame = np.clip(drawn(3, width, height) + noise, 0, 255).astype(np.uint8)
    # The model card's dynamic_preprocess with one tile, then build_transform's Resize: PIL bicubic to a square.
    theirs = Image.fromarray(frame).convert("RGB").resize((448, 448)).resize((448, 448), Image.Resampling.BICUBIC)
    ours = picture(frame, media(size=448, crop="squash", colour="rgb"))
    gap = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs))
    assert (gap <= 1).mean() > 0.99
    assert gap.max() <= 12, "only where PIL cuts off at 0 and 255 between its two passes"
    assert abs((np.asarray(ours).astype(int) - np.asarray(theirs)).mean()) < 0.05, "no drift to bright or dark"


@pytest.mark.parametrize(("width", "height"), [(161, 97), (1278, 718), (100, 900), (2560, 1440), (448, 448)])
def test_swscale_resizes_as_pil_does_whatever_the_size(width: int, height: int) -> None:
    rng = np.random.default_rng(width)
    frame = np.clip(drawn(3, width, height) + rng.integers(-30, 30, (height, width, 3)), 0, 255).astype(np.uint8)
    theirs = np.asarray(Image.fromarray(frame).resize((448, 448), Image.Resampling.BICUBIC)).astype(int)
    resized = resize(frame, 448)
    assert (np.abs(resized.astype(int) - theirs) <= 1).mean() > 0.99
    planar = np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0)  # as the decoder's frames are
    np.testing.assert_array_equal(resize(planar, 448), resized)


def test_small_rgb_pictures_are_internvl2s_transform_exactly() -> None:
    frame = drawn(3, 320, 180)
    theirs = Image.fromarray(frame).resize((64, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(picture(frame, media())), np.asarray(theirs))


def test_a_centred_crop_keeps_proportions_and_the_middle() -> None:
    frame = np.zeros((90, 160, 3), dtype=np.uint8)
    frame[:, 35:125] = 200  # exactly the centred square
    assert np.asarray(picture(frame, media(crop="center"))).min() == 200
    assert np.asarray(picture(frame, media(crop="squash"))).min() == 0


@pytest.mark.parametrize(
    ("size", "box"), [((160, 90), (35, 0, 125, 90)), ((90, 161), (0, 35, 90, 125)), ((8, 8), (0, 0, 8, 8))]
)
def test_the_centred_square_is_the_largest(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    assert centred_square(*size) == box


def test_grey_equalised_fills_the_range_and_has_three_equal_channels() -> None:
    dim = (drawn(0, 160, 90) // 8 + 100).astype(np.uint8)
    settings = media(colour="grey-equalised", crop="center")
    pixels = decode(encode(picture(dim, settings), settings))
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert pixels.min() < 10
    assert pixels.max() > 245


def test_png_keeps_every_pixel_and_jpeg_nearly() -> None:
    frame = drawn(5, 160, 90)
    for encoding, most in (("png", 0.0), ("jpeg", 4.0)):
        settings = media(encoding=encoding)
        image = picture(frame, settings)
        blob = encode(image, settings)
        assert blob == encode(image, settings)
        assert shape_of(blob) == (64, 64, 3)
        assert np.abs(decode(blob).astype(int) - np.asarray(image)).mean() <= most
        assert Image.open(io.BytesIO(blob)).format == encoding.upper()
