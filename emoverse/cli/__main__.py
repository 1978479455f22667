"""Run ``python -m emoverse.cli``."""

import sys

from emoverse.cli import main

sys.exit(main())
