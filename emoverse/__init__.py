"""EmoVerse as a workflow: from raw emotional videos to a trained, evaluated and exported model."""

import os
import sys
from types import TracebackType

__version__ = "0.1.0"


def _in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from emoverse.errors import report_step_error

    if not report_step_error(error):
        sys.__excepthook__(kind, error, trace)


# In a step of a Kubeflow pipeline nobody but the interpreter catches an error: its log shall end as the command line's.
if os.environ.get("_KFP_RUNTIME") == "true":
    sys.excepthook = _in_one_line
