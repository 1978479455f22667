"""EmoVerse as a workflow: raw emotional videos to a trained, evaluated and exported model."""

import os
import sys
from types import TracebackType

__version__ = "0.1.0"


def _in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from emoverse.errors import tell_from_a_step

    if not tell_from_a_step(error):
        sys.__excepthook__(kind, error, trace)


# In a step of a Kubeflow pipeline nobody but the interpreter catches an error: its log shall end as the command line's.
if os.environ.get("_KFP_RUNTIME") == "true":
    sys.excepthook = _in_one_line
