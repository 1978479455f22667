"""Ask a running training to save a checkpoint and stop: by SIGTERM, or by a file where several processes train."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

STOP: Final = "stop"
"""Name of the file in the scratch folder.

The process that started the others puts it there on SIGTERM. A signal to each of them would reach their readers of
rows, too, and end those before the step they feed.
"""


class PreemptedError(Exception):
    """Say that training was asked to stop (SIGTERM), saved a checkpoint and will resume from it."""


class Stop:
    """Whether somebody has asked the training in a scratch folder to stop."""

    def __init__(self, folder: Path) -> None:
        """Watch ``folder`` for the file STOP."""
        self.file, self._signalled = folder / STOP, False

    @property
    def asked(self) -> bool:
        """Whether to stop after the running step."""
        return self._signalled or self.file.exists()

    def ask(self, *signal_and_frame: object) -> None:
        """Note the request; this is a signal handler, too."""
        self._signalled = True

    def ask_all(self, *signal_and_frame: object) -> None:
        """Put the request where every process of the training sees it; this is a signal handler, too."""
        self.file.touch()


@contextmanager
def on_sigterm(ask: object) -> Iterator[None]:
    """Call ``ask`` when SIGTERM comes, instead of ending at once."""
    try:
        before = signal.signal(signal.SIGTERM, ask)  # type: ignore[arg-type]
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
