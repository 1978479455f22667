"""Choose which frames of a clip are looked at."""

from __future__ import annotations


def uniform(count: int, frames: int) -> list[int]:
    """Return ``frames`` indices spread over ``count`` frames, one from the middle of each segment.

    This is ``get_index`` of InternVL2's model card (no bound, ``max_frame = count - 1``), so training shows the
    frames InternVL2 was trained to see. It counts frames, not seconds, for a variable frame rate too, as there.
    A clip shorter than ``frames`` repeats some. Indices are ascending and below ``count``.
    """
    if count < 1 or frames < 1:
        raise ValueError(f"cannot take {frames} of {count} frames")
    segment = (count - 1) / frames
    # Python's round and NumPy's both round halves to even, so the indices are the original's.
    return [int(segment / 2 + round(segment * index)) for index in range(frames)]


def still(count: int, peak: int | None) -> int:
    """Return the frame that stands for the whole clip: ``peak`` when the clip has it, the middle one otherwise."""
    if count < 1:
        raise ValueError("an empty clip has no still")
    return peak if peak is not None and 0 <= peak < count else count // 2
