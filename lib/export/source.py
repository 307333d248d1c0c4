"""Read what is exported.

In: the folder of a complete run, or the authors' published weights. Out: a `Source`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.compression.images import CalibrationImages, read_run_films
from lib.config import resolve
from lib.exceptions import DatasetError, ExportError
from lib.export.published import load_published
from lib.files import INT8, read_json
from lib.models.classifier import Classifier, load_model
from lib.runs.run import is_complete


@dataclass(frozen=True)
class Source:
    """What is exported: the model, its card, the record of its run, and the run's images.

    `record` is empty without a run. Without images, `films` is None and `no_films` says why. An
    ensemble has `members`, of which `model` and `films` are the first's, and `card` and `record`
    its own.
    """

    name: str
    model: Classifier
    card: dict[str, Any]
    record: dict[str, Any]
    films: CalibrationImages | None
    no_films: str = ""
    members: "tuple[Source, ...]" = ()


def quantized_file(source: Path) -> Path | None:
    """Return the file of the int8 run in the folder `source`; None where that is another thing."""
    places = [place / INT8 for place in (source.expanduser(), resolve(source))]
    return next((place for place in places if place.is_file()), None)


def read_source(source: Path, images: bool = True) -> Source:
    """Load the model to export from a complete run's folder or a published state dict.

    images: whether the run's images are read too.
    """
    source = source.expanduser()
    source = source if source.exists() else resolve(source)
    if source.is_file():
        model, card = load_published(source)
        return Source(source.stem, model, card, {}, None, "published weights come without images")
    if not is_complete(source):
        raise ExportError(
            f"{source} is not a complete run: it has no record.json; run it first, or name another run"
        )
    model, card = load_model(source)
    study, run = source.resolve().parts[-2:]
    record = read_json(source / "record.json") | {"study": study}
    films, reason = None, "they were not read"
    if images:
        try:
            films = read_run_films(source, card)
        except (DatasetError, OSError) as error:
            reason = f"they cannot be read: {str(error).splitlines()[0]}"
    return Source(f"{study}-{run}", model, card, record, films, reason)
