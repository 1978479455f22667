"""Errors with place, problem and remedy, and how a process reports them."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
FAULT: Final = "EMOVERSE_FAULT"  # names the file in which a step of a local run leaves its error for the runner


class UserError(Exception):
    """A mistake in the user's input or machine: the CLI prints it on one line and exits with code 2.

    Args:
        problem: What is wrong.
        place: A file, ``file:row``, an address, or the name of a parameter or option.
        remedy: An imperative sentence.
    """

    def __init__(self, problem: str, *, place: str = "", remedy: str = "") -> None:
        self.problem, self.place, self.remedy = problem, place, remedy
        head = f"{place}: {problem}" if place else problem
        super().__init__(f"{head}; {remedy}" if remedy else head)

    def as_arguments(self) -> dict[str, str]:
        """Return the arguments that make the same error in another process."""
        return {"problem": self.problem, "place": self.place, "remedy": self.remedy}


class RowErrors(UserError):  # noqa: N818  (a plural, as it holds many)
    """All bad rows of one file; ``problems`` are complete ``file:row: column: what`` sentences."""

    SHOWN = 20

    def __init__(self, problems: Sequence[str], *, remedy: str = "") -> None:
        self.problems = list(problems)
        shown = "\n  ".join(self.problems[: self.SHOWN])
        more = len(self.problems) - self.SHOWN
        tail = f"\n  ... and {more} more" if more > 0 else ""
        super().__init__(f"{len(self.problems)} bad row(s):\n  {shown}{tail}", remedy=remedy)


_REMEDIES: Final = {
    errno.ENOENT: "check the path",
    errno.EACCES: "give a path that you may read and write",
    errno.EPERM: "give a path that you may read and write",
    errno.EROFS: "give a path that can be written",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "give a folder",
    errno.EEXIST: "give a path that does not exist yet",
    errno.ELOOP: "correct the symbolic links on the way there",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOSPC: "free some space and run again",
    errno.EDQUOT: "free some space and run again",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENFILE: "raise the limit of open files (`sysctl fs.file-max`)",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network file system, and run again",
}
# Errors that the operating system may report without a path and that are still not this program's.
_WITHOUT_PATH: Final = (*DISK_FULL, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE)
_PACKAGE: Final = str(Path(__file__).parent)


def from_os_error(error: OSError) -> UserError | None:
    """Return the user's error for one of the operating system; None where this program is at fault.

    An error is the user's when it names a path outside this package, or when a disk, quota or limit is exhausted.
    """
    if error.errno is None or not error.strerror:
        return None
    # the second name is where something should have been moved to
    place = os.fsdecode(name) if isinstance(name := error.filename2 or error.filename or "", str | bytes) else ""
    if error.errno not in _WITHOUT_PATH and (not place or place.startswith(_PACKAGE) or error.errno == errno.EBADF):
        return None
    remedy = _REMEDIES.get(error.errno, "check the path and its disk")
    return UserError(error.strerror.lower(), place=place, remedy=remedy)


def as_user_error(error: BaseException) -> UserError | None:
    """Return the user's error that an exception is or stands for; None for an internal error."""
    return error if isinstance(error, UserError) else from_os_error(error) if isinstance(error, OSError) else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'joy'?"`` for the nearest known name, or a list of all of them."""
    options = sorted(known)
    matches = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean {matches[0]!r}?" if matches else f"known: {', '.join(options)}"


def report_step_error(error: BaseException) -> bool:
    """Print a user's error on one line, as the command line does; return False for any other error.

    In a local run the first message is also left in the file that ``FAULT`` names.
    """
    known = as_user_error(error)
    if known is None:
        return False
    print(f"emoverse: {known}", file=sys.stderr)
    if place := os.environ.get(FAULT):
        with contextlib.suppress(OSError), Path(place).open("x", encoding="utf-8") as handle:
            handle.write(str(known))
    return True


@contextlib.contextmanager
def step_errors() -> Iterator[None]:
    """End the process of a pipeline's step with one line on stderr, without a traceback, for a user's error."""
    try:
        yield
    except Exception as error:
        if not report_step_error(error):
            raise
        sys.exit(1)
