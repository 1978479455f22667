"""Errors that say what was wrong, where, and what to do."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

FAULT: Final = "EMOVERSE_FAULT"  # names the file in which a step of a local run records its error for the runner


class UserError(Exception):
    """Wrong input or a fault of the machine; the CLI prints it on one line and exits with code 2.

    Attributes:
        problem: What is wrong.
        place: A file, ``file:row`` or the name of a parameter.
        remedy: What to do, as an imperative sentence.
    """

    def __init__(self, problem: str, *, place: str = "", remedy: str = "") -> None:
        self.problem, self.place, self.remedy = problem, place, remedy
        head = f"{place}: {problem}" if place else problem
        super().__init__(f"{head}; {remedy}" if remedy else head)


class RowErrors(UserError):  # noqa: N818
    """All bad rows of one file.

    ``problems`` are complete sentences of the form ``file:row: column: problem``; the message shows the first twenty.
    """

    SHOWN = 20

    def __init__(self, problems: Sequence[str], *, remedy: str = "") -> None:
        self.problems = list(problems)
        shown = "\n  ".join(self.problems[: self.SHOWN])
        more = len(self.problems) - self.SHOWN
        tail = f"\n  ... and {more} more" if more > 0 else ""
        super().__init__(f"{len(self.problems)} bad row(s):\n  {shown}{tail}", remedy=remedy)


_REMEDIES: Final = {
    errno.ENOENT: "check the path",
    errno.EACCES: "give a path you may read and write",
    errno.EPERM: "give a path you may read and write",
    errno.EROFS: "give a path that can be written",
    errno.EISDIR: "give a file",
    errno.ENOTDIR: "give a folder",
    errno.EEXIST: "give a path that does not exist yet",
    errno.ELOOP: "correct the links in the path",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOSPC: "free some space and run again",
    errno.EDQUOT: "free some space and run again",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
}


def from_os_error(error: OSError) -> UserError | None:
    """Turn an error of the operating system into a UserError; None if it carries no system error number."""
    if error.errno is None or not error.strerror:
        return None
    # the second name is the target of a move
    place = error.filename2 or error.filename or ""
    remedy = _REMEDIES.get(error.errno, "check the path and its disk")
    return UserError(error.strerror.lower(), place=str(place), remedy=remedy)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'joy'?"`` for the nearest known name, or a list of all of them."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(options)}"


def tell_from_a_step(error: BaseException) -> bool:
    """Print a mistake of the user's without its traceback, as the command line does; False for any other error.

    The first one of a local run is left where FAULT says, too.
    """
    said = error if isinstance(error, UserError) else from_os_error(error) if isinstance(error, OSError) else None
    if said is None:
        return False
    print(f"emoverse: {said}", file=sys.stderr)
    if place := os.environ.get(FAULT):
        with contextlib.suppress(OSError), Path(place).open("x", encoding="utf-8") as handle:
            handle.write(str(said))
    return True
