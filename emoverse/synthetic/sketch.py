"""Draw polygons and lines in face coordinates: origin between eyes and mouth, y down, half-height 1."""

from typing import Final, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from emoverse.synthetic.units import Floats, Frames

Colour: TypeAlias = tuple[int, int, int]
Points: TypeAlias = list[tuple[float, float]]

SUPERSAMPLE: Final = 2


def blend(base: Colour, other: Colour, share: float) -> Colour:
    """Mix two colours, `share` (clipped to 0..1) of the second."""
    t = min(max(share, 0.0), 1.0)
    return (
        round(base[0] + (other[0] - base[0]) * t),
        round(base[1] + (other[1] - base[1]) * t),
        round(base[2] + (other[2] - base[2]) * t),
    )


def arc(left: float, right: float, ends: float, middle: float, n: int = 11, power: float = 2.0) -> Points:
    """Return n points of a bow from (left, ends) over the height `middle` at its centre to (right, ends)."""
    step = 2.0 / (n - 1)
    ts = [-1.0 + step * i for i in range(n)]
    half, centre = (right - left) / 2, (left + right) / 2
    return [(centre + half * t, ends + (middle - ends) * (1.0 - abs(t) ** power)) for t in ts]


def ellipse(x: float, y: float, rx: float, ry: float, n: int = 24) -> Points:
    """Return n points of an axis-parallel ellipse."""
    angles = np.linspace(0.0, 2 * np.pi, n, endpoint=False)
    return list(zip((x + rx * np.cos(angles)).tolist(), (y + ry * np.sin(angles)).tolist(), strict=True))


class Sketch:
    """Hold one supersampled frame and the head's pose in it."""

    def __init__(self, size: tuple[int, int], background: Colour, pose: Floats) -> None:
        """Open a frame of (width, height) pixels; pose = shift x, y (face units), roll (radians), zoom."""
        width, height = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
        self._image = Image.new("RGB", (width, height), background)
        self._pen = ImageDraw.Draw(self._image)
        self.unit = 0.49 * min(width, height) * float(pose[3])
        cos, sin = float(np.cos(pose[2])) * self.unit, float(np.sin(pose[2])) * self.unit
        self._turn = (cos, sin)
        self._centre = (width / 2 + float(pose[0]) * self.unit, height / 2 + float(pose[1]) * self.unit)

    def _place(self, points: Points) -> Points:
        cos, sin = self._turn
        cx, cy = self._centre
        return [(cx + cos * x - sin * y, cy + sin * x + cos * y) for x, y in points]

    def fill(self, points: Points, colour: Colour) -> None:
        """Fill a polygon."""
        self._pen.polygon(self._place(points), fill=colour)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """Draw an open line of `width` face units, one supersampled pixel at least."""
        self._pen.line(self._place(points), fill=colour, width=max(1, round(width * self.unit)), joint="curve")

    def pixels(self) -> Frames:
        """Return the frame, averaged down to its nominal size, as (H, W, 3) uint8."""
        return np.asarray(self._image.reduce(SUPERSAMPLE))
