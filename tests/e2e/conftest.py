"""The main job, run once for all end-to-end tests."""

from tests.factories.checkout import repro

__all__ = ["repro"]
