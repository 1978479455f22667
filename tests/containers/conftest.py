"""The sample's main job run outside containers, to compare with."""

from tests.e2e.conftest import repro

__all__ = ["repro"]
