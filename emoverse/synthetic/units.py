"""Name the facial action units, in the order and on the scale (0 absent to 5 maximal) of OpenFace 2.

Source: Ekman & Friesen, Facial Action Coding System (1978); Baltrušaitis et al., OpenFace 2.0 (FG 2018).
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Frames: TypeAlias = NDArray[np.uint8]

OPENFACE_UNITS: Final = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
"""Units whose intensity OpenFace estimates (`AU01_r` ... `AU45_r`), in column order."""

EXPRESSIVE_UNITS: Final = (1, 2, 4, 5, 6, 7, 9, 12, 15, 17, 20, 23, 26)
"""Units a performance may set; AU 25 and 45 follow from talking and blinking, AU 10 and 14 stay at rest."""

COLUMN: Final = {unit: index for index, unit in enumerate(OPENFACE_UNITS)}
MAX_INTENSITY: Final = 5.0
