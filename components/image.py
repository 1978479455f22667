"""Name the container image the components run in unless a compiled pipeline names another."""

from typing import Final

from emoverse import __version__

# A name without "python" in it makes kfp's local runner warn at every task that the image may not be a Python one.
IMAGE: Final = f"emoverse-python:{__version__}"
