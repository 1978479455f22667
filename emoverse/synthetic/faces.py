"""Draw faces: emotions become facial action units over time, and these with an identity become pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats: TypeAlias = NDArray[np.float64]
Frames: TypeAlias = NDArray[np.uint8]

OPENFACE_UNITS: Final = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
"""Units whose intensity OpenFace estimates (`AU01_r` ... `AU45_r`), in column order."""

EXPRESSIVE_UNITS: Final = (1, 2, 4, 5, 6, 7, 9, 12, 15, 17, 20, 23, 26)
"""Units that an expression may set; AU 25 and 45 follow from talking and blinking, AU 10 and 14 stay at rest."""

COLUMN: Final = {unit: index for index, unit in enumerate(OPENFACE_UNITS)}
MAX_INTENSITY: Final = 5.0
_BLINK_SECONDS: Final = 0.12


def _ease(position: Floats) -> Floats:
    t = np.clip(position, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@dataclass(frozen=True)
class Expression:
    """The units' peak intensities (0..5) and the clip's timing.

    `onset` < `apex` <= `offset` are shares of the clip's length: movement starts at onset, is full from apex
    to offset and then sinks towards `residual` (share of the peak left on the last frame: offsets are partial).
    `talk` (0..1) is how far the jaw moves in speech, `talk_rate` in syllables a second; `blinks` are shares of
    the clip's length.

    Raises:
        ValueError: A unit cannot be set, or an intensity is out of range.
    """

    peaks: Mapping[int, float] = field(default_factory=dict)
    onset: float = 0.1
    apex: float = 0.45
    offset: float = 0.75
    residual: float = 0.5
    talk: float = 0.6
    talk_rate: float = 4.0
    talk_phase: float = 0.0
    blinks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        for unit, peak in self.peaks.items():
            if unit not in EXPRESSIVE_UNITS:
                raise ValueError(f"AU{unit:02d} cannot be set; choose from {EXPRESSIVE_UNITS}")
            if not 0.0 <= peak <= MAX_INTENSITY:
                raise ValueError(f"AU{unit:02d} intensity {peak} is outside 0..{MAX_INTENSITY:g}")
        if not 0.0 <= self.onset < self.apex <= self.offset <= 1.0:
            raise ValueError(f"onset {self.onset}, apex {self.apex}, offset {self.offset} are not in order within 0..1")

    def speech(self, n_frames: int, fps: float) -> Floats:
        """Return the jaw's opening by speech alone, (T,), 0..1."""
        seconds = np.arange(n_frames) / fps
        syllable = 0.5 - 0.5 * np.cos(2 * np.pi * (self.talk_rate * seconds + self.talk_phase))
        phrase = 0.75 + 0.25 * np.sin(2 * np.pi * (0.9 * seconds + 0.37 * self.talk_phase))
        return np.asarray(self.talk * syllable * phrase, dtype=np.float64)

    def eyelids(self, n_frames: int, fps: float) -> Floats:
        """Return how far blinks close the eyes, (T,), 0 open to 1 shut."""
        seconds = np.arange(n_frames) / fps
        closed = np.zeros(n_frames)
        for blink in self.blinks:
            closed = np.maximum(closed, 1.0 - np.abs(seconds - blink * n_frames / fps) / _BLINK_SECONDS)
        return np.clip(closed, 0.0, 1.0)

    def intensities(self, n_frames: int, fps: float) -> Floats:
        """Return the true intensity of each OpenFace unit in each frame, (T, 17), 0..5."""
        position = np.linspace(0.0, 1.0, n_frames)
        rise = _ease((position - self.onset) / (self.apex - self.onset))
        fall = _ease((position - self.offset) / max(1.0 - self.offset, 1e-6))
        course = rise * (1.0 - (1.0 - self.residual) * fall)
        table = np.zeros((n_frames, len(OPENFACE_UNITS)))
        for unit, peak in self.peaks.items():
            table[:, COLUMN[unit]] = peak * course
        table[:, COLUMN[25]] = 3.0 * self.speech(n_frames, fps) + 0.6 * table[:, COLUMN[26]]
        table[:, COLUMN[45]] = MAX_INTENSITY * self.eyelids(n_frames, fps)
        return np.clip(table, 0.0, MAX_INTENSITY)


EMOTIONS: Final = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
PROTOTYPES: Final[dict[str, tuple[int, ...]]] = {
    "neutral": (),
    "joy": (6, 12),
    "surprise": (1, 2, 5, 26),
    "anger": (4, 5, 7, 23),
    "sadness": (1, 4, 15, 17),
    "disgust": (7, 9, 15, 17),
    "fear": (1, 2, 4, 5, 7, 20, 26),
}
PARTIAL: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "joy": ((12,),),
    "surprise": ((1, 2, 5), (1, 2)),
    "anger": ((4, 5, 7), (4, 7)),
    "sadness": ((1, 4), (15, 17)),
    "disgust": ((15, 17), (9,)),
    "fear": ((1, 2, 5), (4, 5, 7), (1, 4)),
}
"""Parts of a prototype that another emotion has, too: by the face alone they look the same."""
MISLEADING: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    **PARTIAL,
    "joy": ((12,), (1, 4)),
    "anger": (*PARTIAL["anger"], (12,)),
    "sadness": (*PARTIAL["sadness"], (12,)),
}
"""The same with faces of the other valence: joy moved to tears, a bitter or a brave smile."""
PARTIAL_SHARE: Final = 0.45
_POLITE: Final = ((12,), (1, 2), (4,))
"""What a neutral face does in talking, too faintly to be annotated: a polite smile, raised or lowered brows."""
LOW_SHARE: Final = 0.20
_DROP_SHARE: Final = 0.10
STRAY_SHARE: Final = 0.25


@dataclass(frozen=True)
class FaceStyle:
    """How plainly faces show their emotion.

    Attributes:
        partial: Share of faces that show only units that other emotions show, too.
        parts: Emotion -> the units of such a face, to choose from; for others it hardly moves.
        partial_peak: Highest intensity (0..5) that such a face is drawn from.
        stray: Share of faces with a faint unit that has nothing to do with the emotion.
    """

    partial: float = PARTIAL_SHARE
    parts: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=lambda: PARTIAL)
    partial_peak: float = 2.6
    stray: float = STRAY_SHARE


def draw_peaks(
    emotion: str, rng: np.random.Generator, low: bool | None = None, style: FaceStyle = FaceStyle()
) -> dict[int, float]:
    """Draw peak intensities (0..5) of an emotion.

    Args:
        emotion: One of `EMOTIONS`.
        rng: Source of randomness.
        low: Force or forbid a faint face; None draws it.
        style: How plainly faces show their emotion.

    Raises:
        KeyError: The emotion is unknown.
    """
    prototype = PROTOTYPES[emotion]
    faint = bool(rng.random() < LOW_SHARE) if low is None else low
    strength = rng.uniform(1.3, 2.0) if faint else rng.uniform(2.6, 4.6)
    if rng.random() < style.partial:
        options = style.parts.get(emotion, _POLITE)
        prototype = options[int(rng.integers(len(options)))]
        strength = min(strength, style.partial_peak) if emotion in style.parts else 0.7
    kept = [unit for unit in prototype if rng.random() >= _DROP_SHARE]
    if prototype and not kept:
        kept = [prototype[int(rng.integers(len(prototype)))]]
    peaks = {unit: float(strength * rng.uniform(0.65, 1.25)) for unit in kept}
    if rng.random() < style.stray:
        stray = EXPRESSIVE_UNITS[int(rng.integers(len(EXPRESSIVE_UNITS)))]
        peaks[stray] = max(peaks.get(stray, 0.0), float(rng.uniform(0.3, 1.2)))
    return {unit: round(min(peak, MAX_INTENSITY), 3) for unit, peak in sorted(peaks.items())}


def animate(
    emotion: str,
    rng: np.random.Generator,
    low: bool | None = None,
    style: FaceStyle = FaceStyle(),
    mouth: int | None = None,
) -> Expression:
    """Draw an expression of an emotion: units, timing, speech and blinks.

    Args:
        emotion: One of `EMOTIONS`.
        rng: Source of randomness.
        low: Force or forbid a faint face; None draws it.
        style: How plainly faces show their emotion.
        mouth: A unit to add, as a surprise has that is a good one (12) or a bad one (15).

    Raises:
        KeyError: The emotion is unknown.
    """
    peaks = draw_peaks(emotion, rng, low, style)
    if mouth is not None:
        peaks[mouth] = round(float(rng.uniform(1.5, 2.7)), 3)
    onset = float(rng.uniform(0.0, 0.2))
    apex = onset + float(rng.uniform(0.2, 0.4))
    return Expression(
        peaks=peaks,
        onset=onset,
        apex=apex,
        offset=min(1.0, apex + float(rng.uniform(0.15, 0.4))),
        residual=float(rng.uniform(0.3, 0.85)),
        talk=float(rng.uniform(0.2, 0.9)),
        talk_rate=float(rng.uniform(2.5, 5.0)),
        talk_phase=float(rng.random()),
        blinks=(float(rng.random()),) if rng.random() < 0.5 else (),
    )


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
    """Return points of a bow.

    Args:
        left: x of its left end.
        right: x of its right end.
        ends: y of both ends.
        middle: y at its centre.
        n: Number of points.
        power: Shape of the bow; 2 is a parabola, more is flatter in the middle.
    """
    step = 2.0 / (n - 1)
    ts = [-1.0 + step * i for i in range(n)]
    half, centre = (right - left) / 2, (left + right) / 2
    return [(centre + half * t, ends + (middle - ends) * (1.0 - abs(t) ** power)) for t in ts]


def ellipse(x: float, y: float, rx: float, ry: float, n: int = 24) -> Points:
    """Return n points of an axis-parallel ellipse with the centre (x, y) and the radii rx and ry."""
    angles = np.linspace(0.0, 2 * np.pi, n, endpoint=False)
    return list(zip((x + rx * np.cos(angles)).tolist(), (y + ry * np.sin(angles)).tolist(), strict=True))


class Canvas:
    """One supersampled frame and the head's pose in it."""

    def __init__(self, size: tuple[int, int], background: Colour, pose: Floats) -> None:
        """Open a frame of (width, height) pixels; pose = shift x, y (face units), roll (radians), zoom, yaw (-1..1)."""
        width, height = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
        self._image = Image.new("RGB", (width, height), background)
        self._pen = ImageDraw.Draw(self._image)
        self.unit = 0.49 * min(width, height) * float(pose[3])
        cos, sin = float(np.cos(pose[2])) * self.unit, float(np.sin(pose[2])) * self.unit
        self._turn = (cos, sin)
        self._yaw = float(pose[4])
        self._centre = (width / 2 + float(pose[0]) * self.unit, height / 2 + float(pose[1]) * self.unit)

    def _place(self, points: Points) -> Points:
        cos, sin = self._turn
        cx, cy = self._centre
        # a turned head: what is near its middle moves to the side, its outline does not
        points = [(x + self._yaw * (1.0 - x * x), y) if abs(x) < 1.0 else (x, y) for x, y in points]
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


_STREAM: Final = 0xFACE
_SKINS: Final[tuple[Colour, ...]] = (
    (250, 218, 196),
    (232, 184, 148),
    (198, 145, 106),
    (150, 102, 72),
    (104, 70, 50),
)
_HAIRS: Final[tuple[Colour, ...]] = (
    (28, 22, 20), (66, 44, 30), (118, 78, 42), (196, 158, 92), (138, 56, 30), (160, 160, 164),
)  # fmt: skip
_IRISES: Final[tuple[Colour, ...]] = ((70, 46, 30), (60, 90, 120), (70, 104, 66), (96, 96, 100))
HAIR_STYLES: Final = ("short", "long", "fringe", "parted", "bald")


@dataclass(frozen=True)
class Identity:
    """What identifies a drawn person; lengths in face half-heights, offsets around an average face."""

    seed: int
    skin: Colour
    hair: Colour
    iris: Colour
    background: Colour
    hair_style: str
    glasses: bool
    beard: bool
    face_width: float
    jaw_width: float
    brow_thickness: float
    brow_height: float
    brow_tilt: float
    eye_spacing: float
    eye_size: float
    nose_length: float
    mouth_width: float
    mouth_height: float
    mouth_curve: float
    lip_thickness: float

    @classmethod
    def from_seed(cls, seed: int) -> Self:
        """Draw the one person that belongs to an integer seed (>= 0)."""
        rng = np.random.default_rng([_STREAM, seed])
        tone = float(rng.uniform(0, len(_SKINS) - 1))
        low = int(tone)
        skin = blend(_SKINS[low], _SKINS[min(low + 1, len(_SKINS) - 1)], tone - low)
        red, green, blue = (int(v) for v in rng.integers(50, 210, 3))
        return cls(
            seed=seed,
            skin=skin,
            hair=_HAIRS[int(rng.integers(len(_HAIRS)))],
            iris=_IRISES[int(rng.integers(len(_IRISES)))],
            background=(red, green, blue),
            hair_style=HAIR_STYLES[int(rng.choice(len(HAIR_STYLES), p=[0.3, 0.25, 0.15, 0.2, 0.1]))],
            glasses=bool(rng.random() < 0.25),
            beard=bool(rng.random() < 0.15),
            face_width=float(rng.uniform(0.70, 0.82)),
            jaw_width=float(rng.uniform(0.66, 0.92)),
            brow_thickness=float(rng.uniform(0.045, 0.085)),
            brow_height=float(rng.uniform(-0.018, 0.018)),
            brow_tilt=float(rng.uniform(-0.012, 0.012)),
            eye_spacing=float(rng.uniform(0.31, 0.37)),
            eye_size=float(rng.uniform(0.9, 1.15)),
            nose_length=float(rng.uniform(0.18, 0.27)),
            mouth_width=float(rng.uniform(0.24, 0.31)),
            mouth_height=float(rng.uniform(0.50, 0.55)),
            mouth_curve=float(rng.uniform(-0.012, 0.012)),
            lip_thickness=float(rng.uniform(0.035, 0.06)),
        )


Units: TypeAlias = Mapping[int, float]
"""Intensity of each unit as a share of the maximum, 0..1."""

_EYE_Y: Final = -0.12
_WHITE: Final[Colour] = (240, 238, 234)
_TEETH: Final[Colour] = (236, 232, 222)
_CAVITY: Final[Colour] = (62, 20, 24)
_DARK: Final[Colour] = (30, 22, 20)


def draw(canvas: Canvas, identity: Identity, units: Units, speech: float) -> None:
    """Draw the whole head; `speech` (0..1) opens the jaw on top of AU 26."""
    jaw = 0.22 * units[26] + 0.06 * speech * (1.0 - 0.6 * units[23])
    _head(canvas, identity, jaw)
    _forehead(canvas, identity, units)
    for side in (-1.0, 1.0):
        _eye(canvas, identity, units, side)
        _brow(canvas, identity, units, side)
    _nose(canvas, identity, units)
    _mouth(canvas, identity, units, jaw)
    if identity.glasses:
        _glasses(canvas, identity)


def _shade(identity: Identity, share: float) -> Colour:
    return blend(identity.skin, blend(identity.skin, (70, 30, 20), 0.62), share)


def _head(canvas: Canvas, identity: Identity, jaw: float) -> None:
    wide, low = identity.face_width, 0.90 + 0.7 * jaw
    if identity.hair_style != "bald":
        canvas.fill(ellipse(0.0, -0.18, wide + 0.12, 0.92), identity.hair)
    if identity.hair_style == "long":
        canvas.fill([(-wide - 0.14, -0.3), (wide + 0.14, -0.3), (wide + 0.2, 1.2), (-wide - 0.2, 1.2)], identity.hair)
    canvas.fill([(-0.3, 0.6), (0.3, 0.6), (0.42, 1.5), (-0.42, 1.5)], _shade(identity, 0.35))
    for side in (-1.0, 1.0):
        canvas.fill(ellipse(side * wide, 0.02, 0.09, 0.17, 14), _shade(identity, 0.2))
    skull = ellipse(0.0, 0.0, wide, 0.92, 44)
    outline = [
        (x * (1 - (1 - identity.jaw_width) * y * y * (y > 0)), y * (low / 0.92) if y > 0 else y) for x, y in skull
    ]
    canvas.fill(outline, identity.skin)
    if identity.beard:
        tint = blend(identity.skin, identity.hair, 0.45)
        canvas.fill([p for p in outline if p[1] > 0.34] + arc(-0.5, 0.5, 0.40, 0.30), tint)
    top = {"short": -0.70, "long": -0.66, "fringe": -0.58, "parted": -0.64}.get(identity.hair_style)
    if top is not None:
        lift = 0.12 if identity.hair_style == "parted" else -0.04
        crown = [p for p in ellipse(0.0, -0.02, wide + 0.03, 0.97, 44) if p[1] < top + 0.22]
        crown.sort()
        canvas.fill(crown + arc(wide * 0.86, -wide * 0.86, top + 0.16, top - lift), identity.hair)


def _forehead(canvas: Canvas, identity: Identity, units: Units) -> None:
    lines = max(units[1], units[2]) - 0.3 * units[4]
    if lines > 0.12:
        for row in range(2):
            y = -0.54 + 0.075 * row
            half = 0.34 if units[2] > 0.12 else 0.16
            canvas.line(arc(-half, half, y, y - 0.03), _shade(identity, 1.6 * lines), 0.03)
    if units[4] > 0.1:
        for side in (-1.0, 1.0):
            foot, head = (side * 0.055, -0.20), (side * 0.045, -0.36)
            canvas.line([foot, head], _shade(identity, 0.2 + 1.6 * units[4]), 0.04)


def _eye(canvas: Canvas, identity: Identity, units: Units, side: float) -> None:
    x, half, size = side * identity.eye_spacing, 0.175 * identity.eye_size, identity.eye_size
    opened = 1.0 - units[45]
    up = 0.095 * size * (1 + 1.25 * units[5]) * (1 - 0.55 * units[7]) * (1 - 0.25 * units[4]) * opened
    down = 0.060 * size * (1 + 0.5 * units[5]) * (1 - 0.75 * units[7]) * (1 - 0.8 * units[6]) * opened
    lid, rim = arc(x - half, x + half, _EYE_Y, _EYE_Y - up), arc(x - half, x + half, _EYE_Y, _EYE_Y + down)
    canvas.fill(lid + rim[::-1], _WHITE)

    def clip(points: Points) -> Points:
        kept = []
        for px, py in points:
            bow = 1.0 - ((px - x) / half) ** 2
            kept.append((px, min(max(py, _EYE_Y - up * bow), _EYE_Y + down * bow)))
        return kept

    canvas.fill(clip(ellipse(x, _EYE_Y - 0.01, 0.085, 0.085, 16)), identity.iris)
    canvas.fill(clip(ellipse(x, _EYE_Y - 0.01, 0.042, 0.042, 10)), _DARK)
    canvas.line(lid, _DARK, 0.028)
    canvas.line(rim, _shade(identity, 0.45 + 0.5 * max(units[7], units[6])), 0.016)
    if units[6] > 0.08:
        cheek = arc(x - 0.17, x + 0.17, 0.07 - 0.03 * units[6], 0.13 - 0.05 * units[6])
        canvas.line(cheek, _shade(identity, 1.5 * units[6]), 0.04)
        outer = x + side * half
        for fan in (-0.05, 0.05):
            start, end = (outer + side * 0.03, _EYE_Y + fan * 0.4), (outer + side * 0.12, _EYE_Y + fan)
            canvas.line([start, end], _shade(identity, 1.4 * units[6]), 0.026)


def _brow(canvas: Canvas, identity: Identity, units: Units, side: float) -> None:
    base = _EYE_Y - 0.225 + identity.brow_height
    scale = identity.eye_spacing / 0.34
    inner = (0.15 - 0.08 * units[4], base + 0.02 + identity.brow_tilt - 0.20 * units[1] + 0.19 * units[4])
    middle = (0.34 * scale, base - 0.045 - 0.07 * units[1] - 0.15 * units[2] + 0.13 * units[4])
    outer = (0.55 * scale, base + 0.035 - identity.brow_tilt - 0.21 * units[2] + 0.02 * units[4])
    points = []
    for i in range(7):
        t = i / 6
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
        peak = (2 * middle[0] - (inner[0] + outer[0]) / 2, 2 * middle[1] - (inner[1] + outer[1]) / 2)
        px = a * inner[0] + b * peak[0] + c * outer[0]
        points.append((side * px, a * inner[1] + b * peak[1] + c * outer[1]))
    colour = blend(identity.hair, _DARK, 0.35) if sum(identity.hair) < 420 else blend(identity.hair, (90, 70, 50), 0.6)
    canvas.line(points, colour, identity.brow_thickness)


def _nose(canvas: Canvas, identity: Identity, units: Units) -> None:
    tip = identity.nose_length - 0.07 * units[9]
    wing = 0.115 + 0.05 * units[9]
    line = _shade(identity, 0.7)
    canvas.line([(-0.045, -0.10), (-0.06, tip - 0.08)], _shade(identity, 0.35), 0.018)
    canvas.line(arc(-wing, wing, tip - 0.02, tip + 0.05), line, 0.024)
    for side in (-1.0, 1.0):
        canvas.line([(side * wing, tip - 0.02), (side * (wing + 0.005), tip - 0.09)], line, 0.02)
        for row in range(3 if units[9] > 0.08 else 0):
            y = -0.06 + 0.055 * row
            canvas.line([(side * 0.03, y + 0.02), (side * 0.11, y - 0.02)], _shade(identity, 1.6 * units[9]), 0.034)
        fold = max(units[9], 0.8 * units[12], 0.5 * units[20])
        if fold > 0.08:
            corner = identity.mouth_width + 0.10 + 0.08 * units[12]
            start = (side * (wing + 0.05), tip - 0.03 - 0.04 * units[9])
            canvas.line([start, (side * corner, identity.mouth_height - 0.07)], _shade(identity, 1.4 * fold), 0.034)


def _mouth(canvas: Canvas, identity: Identity, units: Units, jaw: float) -> None:
    half = identity.mouth_width + 0.12 * units[12] + 0.15 * units[20] - 0.09 * units[23] - 0.05 * units[26]
    centre = identity.mouth_height - 0.035 * units[9]
    corner = centre + identity.mouth_curve + 0.01 - 0.17 * units[12] + 0.17 * units[15] + 0.03 * units[20]
    gap = (0.012 + 1.05 * jaw) * (1 - 0.65 * units[17]) + 0.04 * units[12] + 0.05 * units[20]
    thick = identity.lip_thickness * (1 - 0.85 * units[23]) * (1 - 0.25 * units[20])
    top = centre - 0.05 * units[17]
    bottom = top + gap
    middle = (corner + (bottom - centre) * 0.25) if jaw > 0 else corner
    lips = blend(identity.skin, (168, 52, 58), 0.5)
    upper = arc(-half, half, middle, top - thick, 13, 1.7)
    lower = arc(-half, half, middle, bottom + 1.25 * thick, 13, 2.2)
    canvas.fill(upper + lower[::-1], lips)
    inside = half * 0.9
    roof, floor = arc(-inside, inside, middle, top, 13), arc(-inside, inside, middle, bottom, 13)
    if gap > 0.03:
        canvas.fill(roof + floor[::-1], _CAVITY)
        teeth = arc(-inside * 0.86, inside * 0.86, middle, top + min(0.5 * gap, 0.06), 13)
        canvas.fill(arc(-inside * 0.86, inside * 0.86, middle, top, 13) + teeth[::-1], _TEETH)
    else:
        canvas.line(roof, blend(lips, _CAVITY, 0.7), 0.02)
    if units[17] > 0.08:
        y = 0.75 + 0.4 * jaw
        canvas.line(arc(-0.13, 0.13, y + 0.02, y - 0.04), _shade(identity, 1.6 * units[17]), 0.045)
    if units[15] > 0.1:
        for side in (-1.0, 1.0):
            start, end = (side * (half + 0.02), middle + 0.01), (side * (half + 0.05), middle + 0.09)
            canvas.line([start, end], _shade(identity, 1.5 * units[15]), 0.034)


def _glasses(canvas: Canvas, identity: Identity) -> None:
    for side in (-1.0, 1.0):
        rim = ellipse(side * identity.eye_spacing, _EYE_Y + 0.01, 0.235, 0.19, 20)
        canvas.line([*rim, rim[0]], (44, 40, 44), 0.024)
        canvas.line(
            [(side * (identity.eye_spacing + 0.235), _EYE_Y), (side * identity.face_width, _EYE_Y - 0.03)], _DARK, 0.02
        )
    bridge = identity.eye_spacing - 0.235
    canvas.line(arc(-bridge, bridge, _EYE_Y, _EYE_Y - 0.03), (44, 40, 44), 0.024)
