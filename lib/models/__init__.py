"""Everything that uses torch: batches, backbone and head, training, heat maps."""

from lib.models.batches import (
    Loader,
    make_loaders,
)
from lib.models.classifier import (
    Classifier,
    backbone_stages,
    build_model,
    count_parameters,
    describe_model,
    load_model,
    save_model,
)
from lib.models.heatmaps import (
    ServingModule,
    explainable_forward,
    heat_maps,
)
from lib.models.predicting import (
    predict,
    predict_splits,
)
from lib.models.training import (
    build_optimizer,
    fit,
    model_cost,
)

__all__ = [
    "Classifier",
    "Loader",
    "ServingModule",
    "backbone_stages",
    "build_model",
    "build_optimizer",
    "count_parameters",
    "describe_model",
    "explainable_forward",
    "fit",
    "heat_maps",
    "load_model",
    "make_loaders",
    "model_cost",
    "predict",
    "predict_splits",
    "save_model",
]
