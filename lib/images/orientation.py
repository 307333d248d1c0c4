"""In: a grey image. Out: whether it seems to lie on its side.

An upright chest is nearly its own mirror image, left against right; top against bottom it is not.
The symmetry of an image is the correlation with its mirror image, at the best of several axes near
the middle, since few films are centred.
"""

import numpy as np
from PIL import Image

SIDE = 32  # px that are looked at
SHIFT = 6  # px that an axis may lie from the middle, times two
MARGIN = 0.15
"""How much larger the wrong symmetry must be. Measured with this margin: of 1,496 images of adults
(NIH) 96 % are detected when turned by 90 degrees, and 0.7 % are false alarms; of 681 others 98 %
and 0 %; of 1,500 images of children 28 % and 2.3 %."""


def seems_sideways(pixels: np.ndarray) -> bool:
    """Whether a film (H, W) uint8 looks turned by 90 degrees. A turn by 180 degrees is not
    detected."""
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, np.float64)
    return mirror_symmetry(grey.T) - mirror_symmetry(grey) > MARGIN


def mirror_symmetry(grey: np.ndarray) -> float:
    """The largest correlation of (H, W) with its mirror image, left against right; 0 where flat."""
    width = grey.shape[1]
    best = -1.0
    for shift in range(-SHIFT, SHIFT + 1):  # the columns that have a counterpart at this axis
        columns = grey[:, max(0, shift) : width + min(0, shift)]
        centred = columns - columns.mean()
        power = (centred**2).sum()
        best = max(best, (centred * centred[:, ::-1]).sum() / power if power > 0 else 0.0)
    return float(best)
