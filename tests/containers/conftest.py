"""The sample's main job run outside containers, to compare with."""

from tests.factories.checkout import repro

__all__ = ["repro"]
