"""Dataset folders -> one frame of images, labels and splits, and their pixels; no torch."""

from lib.datasets.check import (
    FolderReport,
    check_folder,
    check_overlap,
    check_sources,
)
from lib.datasets.download import download_dataset
from lib.datasets.label_table import (
    read_labels,
)
from lib.datasets.prepare import (
    PreparedData,
    data_fingerprint,
    data_text,
    describe_data,
    load_images,
    prepare_data,
)
from lib.datasets.splits import (
    assign_splits,
    split_counts,
)
from lib.datasets.tables import (
    Dataset,
    read_dataset,
)

__all__ = [
    "Dataset",
    "FolderReport",
    "PreparedData",
    "assign_splits",
    "check_folder",
    "check_overlap",
    "check_sources",
    "data_fingerprint",
    "data_text",
    "describe_data",
    "download_dataset",
    "load_images",
    "prepare_data",
    "read_dataset",
    "read_labels",
    "split_counts",
]
