"""Does a model look at the sign? Phantoms drawn twice, with one thing changed; no torch."""

from lib.examination.examine import (
    Examination,
    examine_model,
)
from lib.examination.words import (
    examination_text,
)
from lib.examination.write import (
    examination_folder,
    write_examination,
)

__all__ = [
    "Examination",
    "examination_folder",
    "examination_text",
    "examine_model",
    "write_examination",
]
