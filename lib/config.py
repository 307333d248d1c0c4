"""In: the parameters of one experiment, as plain values. Out: one checked, frozen `Config`."""

import difflib
import hashlib
import json
import os
import reprlib
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from lib.exceptions import StudyError

REPO_ROOT = Path(__file__).resolve().parents[1]

FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""The 14 findings of NIH ChestX-ray14, in its order. This order travels with every array and saved
model."""

NO_FINDING = "No Finding"
PHANTOMS = "dataset_phantom"
"""The `data_root` whose films are drawn when they are missing."""

PLACES = ("run_dir", "data_root", "weights_root", "devices_per_run")
"""Parameters that say where something is or is computed, and decide no number beyond rounding."""

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Uncertain = Literal["ignore", "zeros", "ones", "smooth"]


class Config(BaseModel):
    """The parameters of one experiment; a notebook's `parameters` cell uses these names.

    Relative paths are looked for below the repository's root. `init_from` names the folder of the
    run whose backbone this run starts from. Raises pydantic's ValidationError, naming field and
    value.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    # data
    run_dir: str = "runs/scratch/run"
    """Folder of the run: everything that it writes."""
    data_root: str = "."
    """Folder that holds the dataset folders."""
    data_dir: tuple[str, ...] = ("dataset_full",)
    """Dataset folders, merged: an image keeps the labels that it has."""
    on_bad: Literal["raise", "skip"] = "raise"
    """What rows and files do that cannot be used: stop the run, or be left out and listed in
    bad_rows.csv."""
    hold_out: tuple[str, ...] = ()
    """Dataset folders of a later stage: what it validates or tests on does not train (or choose
    epochs) here."""
    views: Literal["frontal", "all"] | tuple[str, ...] = "frontal"
    """Views to read of sets that tell them: frontal, all, or names such as [PA, AP, LATERAL]."""
    uncertain: Uncertain | dict[str, Uncertain] = "ignore"
    """Training target of a label that a set calls uncertain (-1): none, 0, 1, or smooth: 0.55 to
    0.85; also by finding."""
    readers: Literal["majority", "share"] = "majority"
    """Training target where several readers labelled a film; `share` of those who see the
    finding."""
    balance_sources: bool = False
    """Whether every dataset folder gives an epoch as many images."""
    findings: tuple[str, ...] = FINDINGS
    """Findings to predict; "all" are the 14 of NIH ChestX-ray14."""
    split_by: Literal["patient", "image", "official"] = "patient"
    """Unit of the validation split; `image` leaks patients into it. `official`: by patient, but
    official lists hold as they stand, also where both name a patient."""
    folds: Annotated[int, Field(ge=0)] = 0
    """Divides all patients into so many test sets, in place of official lists; 0: those lists."""
    fold: Annotated[int, Field(ge=0)] = 0
    """The one of the folds whose patients are tested, counted from 0."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 1 / 7
    """Share of the patients (or images) for validation."""
    test_fraction: Fraction = 0.2
    """Share for test, where the data has no official test list."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training patients to train on; a smaller share lies within a larger one. An
    epoch keeps its number of steps."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides initial weights, order, augmentation and the validation patients."""
    # model
    backbone: str = "tf_efficientnet_b4.ns_jft_in1k"
    """Any timm model."""
    pretrained: bool | str = True
    """timm's weights, a weight file (see `weights_places`), or false for none; ignored with
    `init_from`."""
    weights_root: str | None = None
    """Folder below which a weight file is looked for; None: `data_root`."""
    input_range: Literal["timm", "imagenet"] | tuple[float, float] = "timm"
    """What the pretrained weights expect: the mean and std that timm states for the backbone, those
    of ImageNet, or the values of black and white, for example [0, 1], [-1, 1] or [0, 255]. With
    `init_from`, timm stands for that of the earlier run."""
    init_from: str | None = None
    """Folder of the earlier stage whose backbone this run starts from."""
    teacher: tuple[str, ...] = ()
    """Folders of the runs whose mean answer is learned beside the labels; none: labels alone."""
    distil_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the teacher's answer in the loss where there is a label too: half, so that neither
    rules; where there is no label, the answer counts alone."""
    distil_temperature: Positive = 1.0
    """Divides the log-odds of teacher and student in the loss; 1 keeps the teacher's calibrated
    probabilities, which are soft already."""
    distil_data: str | None = None
    """Folder of films, with labels or not, of which the teacher's answers alone are learned."""
    prune: Fraction = 0.0
    """Share of the backbone's channels that are removed before training, those of the smallest
    weights first."""
    freeze: Literal["none", "backbone"] | Count = "none"
    """What is not trained: nothing, the backbone, or its first k stages."""
    head: Literal["mlp", "linear"] = "mlp"
    """`mlp` is the method's: 625 and 256 hidden units."""
    head_bias: Literal["prior", "random"] = "prior"
    """First value of the head's last bias; `prior` is the log-odds of each finding in the training
    images."""
    dropout: Fraction = 0.3
    """Share of the head's inputs that are dropped in training."""
    drop_path: Fraction = 0.0
    """Share of residual branches that are dropped in training, rising with depth."""
    image_size: Annotated[int, Field(ge=16, le=2048)] = 224
    """Pixels per side."""
    # training
    epochs: Count = 5
    """Passes over the training images."""
    batch_size: Count = 16
    """Images per step."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """`adamw` decays weights apart from the gradient."""
    lr: Positive = 5e-4
    """Highest learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of all weights but biases, norms and tokens."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate per depth of the backbone, from the head down."""
    warmup: Fraction = 0.05
    """Share of all steps in which the learning rate rises."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient; 0: no limit."""
    ema: Fraction = 0.0
    """Decay of the moving average of the weights; 0: none."""
    loss: Literal["bce", "asl", "focal"] = "bce"
    """Binary cross-entropy, the asymmetric loss (Ridnik et al. 2021) or the focal loss (Lin et al.
    2017), over the known labels; the last two with the parameters of their papers."""
    pos_weight: Literal["none", "balanced"] = "none"
    """`balanced` weighs positives by their rarity; only with `loss: bce`."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """How the loss adds up over the known labels of a batch."""
    augment: Literal["none", "rotate", "full"] = "rotate"
    """`rotate`: up to 20 degrees; `full`: scale, shift, shear and exposure too."""
    choose_epoch_by: Literal["auroc", "loss", "last", "cardiomegaly_accuracy"] = "auroc"
    """Validation score of the epoch whose weights are kept."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """`auto`: bfloat16 where the device is faster with it."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to train on."""
    devices_per_run: Count = 1
    """Devices that train one run together."""

    @field_validator("data_dir", "hold_out", "findings", "teacher", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            return FINDINGS if value == "all" and info.field_name == "findings" else (value,)
        return tuple(value) if isinstance(value, list) else value

    @field_validator("views", mode="before")
    @classmethod
    def _view_names(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            if not value or not all(isinstance(name, str) and name.strip() for name in value):
                raise ValueError("views must be frontal, all, or a list of one or more names")
            return tuple(dict.fromkeys(name.strip().upper() for name in value))
        return value

    @field_validator("uncertain")
    @classmethod
    def _by_known_finding(cls, value: Any) -> Any:
        if isinstance(value, dict) and (unknown := sorted(set(value) - set(FINDINGS))):
            raise ValueError(f"must be by finding; {', '.join(unknown)} is none")
        return value

    @field_validator("input_range", mode="before")
    @classmethod
    def _two_numbers(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("input_range")
    @classmethod
    def _black_below_white(cls, value: Any) -> Any:
        if isinstance(value, tuple) and value[0] >= value[1]:
            raise ValueError("must be [black, white], the lower number first")
        return value

    @field_validator("findings")
    @classmethod
    def _known_findings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in FINDINGS]
        if unknown or not value or len(set(value)) != len(value):
            raise ValueError(
                f"findings must be one or more different names of {', '.join(FINDINGS)}; got {value}"
            )
        return tuple(name for name in FINDINGS if name in value)

    @field_validator("data_dir")
    @classmethod
    def _some_folder(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("data_dir must name at least one dataset folder")
        return value

    @field_validator("fold")
    @classmethod
    def _one_of_the_folds(cls, value: int, info: ValidationInfo) -> int:
        folds = info.data.get("folds", 0)
        if value >= max(folds, 1):
            raise ValueError(f"must be less than folds, which is {folds}")
        return value

    @field_validator("folds")
    @classmethod
    def _more_than_one_fold(cls, value: int) -> int:
        if value == 1:
            raise ValueError("must be 0 (official lists) or at least 2")
        return value

    @field_validator("pos_weight")
    @classmethod
    def _weighs_once(cls, value: str, info: ValidationInfo) -> str:
        loss = info.data.get("loss", "bce")
        if value != "none" and loss != "bce":
            raise ValueError(
                f"must be 'none' with loss {loss!r}, which weighs positives by its own rule; "
                "set loss to 'bce' to weigh them by their rarity"
            )
        return value

    @field_validator("choose_epoch_by")
    @classmethod
    def _can_be_computed(cls, value: str, info: ValidationInfo) -> str:
        if value == "cardiomegaly_accuracy" and "Cardiomegaly" not in info.data.get(
            "findings", FINDINGS
        ):
            raise ValueError("cardiomegaly_accuracy needs Cardiomegaly among the findings")
        return value

    @classmethod
    def from_namespace(cls, names: dict[str, Any]) -> "Config":
        """The Config of a notebook: pass `globals()`.

        Names that are no parameter are left alone; one that looks like a misspelt parameter (`epoch
        = 3`) warns. Raises StudyError with one sentence per parameter of a wrong type or value.
        """
        fields = cls.model_fields
        for name, value in names.items():
            close = difflib.get_close_matches(name, fields, n=1, cutoff=0.8)
            if (
                close
                and name not in fields
                and isinstance(value, int | float | str | list | tuple | None)
            ):
                warnings.warn(
                    f"{name} = {value!r} is no parameter and changes nothing: did you mean {close[0]}?",
                    stacklevel=2,
                )
        try:
            return cls(**{field: names[field] for field in fields if field in names})
        except ValidationError as error:
            raise StudyError("\n".join(config_problems(error, names))) from None

    def network(self) -> dict[str, Any]:
        """What a saved model needs to be built again."""
        return self.model_dump(include={"backbone", "head", "dropout", "findings", "image_size"})

    @property
    def data_folders(self) -> list[Path]:
        """The dataset folders, absolute."""
        return [resolve(folder, self.data_root) for folder in self.data_dir]

    @property
    def held_out_folders(self) -> list[Path]:
        """The dataset folders of `hold_out`, absolute."""
        return [resolve(folder, self.data_root) for folder in self.hold_out]

    @property
    def distil_folder(self) -> Path:
        """The folder of `distil_data`, absolute; that of `data_root` where it is None."""
        return resolve(self.distil_data or ".", self.data_root)

    @property
    def weights_places(self) -> list[Path]:
        """Where the weight file that `pretrained` names may be: below the repository's root, then
        below `weights_root` or `data_root`; empty where it names none."""
        if isinstance(self.pretrained, bool):
            return []
        root = self.data_root if self.weights_root is None else self.weights_root
        places = [resolve(self.pretrained), resolve(self.pretrained, root)]
        return list(dict.fromkeys(places))

    @property
    def weights_file(self) -> Path | None:
        """The first of `weights_places` that is a file, else the first; None where there is
        none."""
        places = self.weights_places
        return next((place for place in places if place.is_file()), next(iter(places), None))

    def hash(self) -> str:
        """Twelve hex digits that change with any parameter that decides a run's numbers.

        Left out are values that are the default, so that a new parameter changes no hash; the run's
        own folder; the roots of data and weights, since a folder may be moved or mounted
        elsewhere: the data are known by their fingerprint; and the number of devices.
        """
        values = self.model_dump(mode="json", exclude=set(PLACES), exclude_defaults=True)
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def config_problems(error: ValidationError, values: dict[str, Any]) -> list[str]:
    """One sentence per parameter that is wrong: its name, its value, and what it must be."""
    reasons: dict[str, list[str]] = {}
    for one in error.errors():
        text = one["msg"].removeprefix("Value error, ").removeprefix("Input ")
        reasons.setdefault(str(one["loc"][0]), []).append(text)
    return [
        f"parameter {name!r} is {value_shown(values[name])}: it {' or '.join(texts)}"
        for name, texts in reasons.items()
    ]


def value_shown(value: Any) -> str:
    """A value as it stands in a message: `repr`, with the middle of long values left out.

    A few lines of YAML can name a value whose `repr` has gigabytes.
    """
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 200
    short.maxlist = short.maxtuple = short.maxdict = 20
    short.maxlevel = 3
    return short.repr(value)


def config_changes(made: dict[str, Any], planned: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The parameters in which two configs, as JSON values, differ: {name: (made with, planned)};
    `hash` decides alike.

    A parameter that one of them does not have, being of another version, counts as the default.
    """
    usual = Config().model_dump(mode="json")
    names = [name for name in {**planned, **made} if name not in PLACES]
    pairs = {
        name: (made.get(name, usual.get(name)), planned.get(name, usual.get(name)))
        for name in names
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def resolve(path: str | Path, root: str | Path = ".") -> Path:
    """An absolute path: `path` as it is, or below `root`, which is itself below the repository's
    root."""
    return REPO_ROOT / Path(root).expanduser() / Path(path).expanduser()


def cache_folder() -> Path:
    """Where decoded images are kept, unless a call says otherwise: CXR_STORE, else .store here."""
    return Path(os.environ.get("CXR_STORE") or REPO_ROOT / ".store")
