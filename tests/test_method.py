"""The arm `method` against the published method, Ayushk4/MedImaging (2021): every parameter of
every stage."""

import pytest

from lib.config import FINDINGS, REPO_ROOT, Config
from lib.models.batches import DEGREES
from lib.models.classifier import MLP_WIDTHS
from lib.studies.plan import plan_study

STUDIES = ("transfer", "seed")
STAGES = ("pneumonia_by_method", "cardiomegaly_by_method", "method")
METHOD = {
    "head": "mlp",
    "dropout": 0.3,
    "drop_path": 0.0,
    "freeze": "none",  # all layers are trained
    "optimizer": "adam",
    "lr": 5e-4,
    "weight_decay": 0.0,
    "layer_decay": 1.0,
    "schedule": "constant",
    "warmup": 0.0,
    "batch_size": 16,
    "epochs": 5,
    "clip_norm": 0.0,
    "ema": 0.0,
    "augment": "rotate",
    "precision": "32-true",
    "pos_weight": "none",
    "loss_reduction": "sum",
    "head_bias": "random",
    "split_by": "image",
    "val_fraction": 1 / 7,
}
FULL_SIZE = {"backbone": "tf_efficientnet_b4.ns_jft_in1k", "image_size": 224, "pretrained": True}
"""In transfer.yaml these differ: two CPU cores train neither EfficientNet-B4 nor 224 px."""

# What differs on purpose in both studies: seeds 0, 1, 2 for 49, so that arms are compared seed by
# seed; one sigmoid for a softmax over two classes in the stages of one finding; the test images,
# which are the suite's own for all arms.


def stages(study: str) -> dict[str, list[Config]]:
    """The configs of each stage of `method`, one per seed, from what each run needs."""
    runs = plan_study(REPO_ROOT / "studies" / f"{study}.yaml").runs
    found: dict[str, list[Config]] = {}
    for run in (run for run in runs.values() if run.arm == "method"):
        chain = [run]
        while chain[-1].needs:
            chain.append(runs[chain[-1].needs[0]])
        for stage in chain:
            found.setdefault(stage.arm, []).append(stage.config)
    return found


@pytest.mark.parametrize("study", STUDIES)
def test_the_method_goes_through_its_three_stages(study):
    assert tuple(reversed(stages(study))) == STAGES


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_the_parameters_of_the_method(study, stage):
    configs = stages(study)[stage]
    assert [{name: getattr(config, name) for name in METHOD} for config in configs] == [
        METHOD
    ] * len(configs)


@pytest.mark.parametrize("stage", STAGES)
def test_at_full_size_backbone_and_image_size_are_those_of_the_method(stage):
    configs = stages("seed")[stage]
    assert [{name: getattr(config, name) for name in FULL_SIZE} for config in configs] == [
        FULL_SIZE
    ] * len(configs)


@pytest.mark.parametrize("study", STUDIES)
def test_the_stages_learn_pneumonia_then_cardiomegaly_then_all_findings(study):
    found = stages(study)
    assert [found[stage][0].findings for stage in STAGES] == [
        ("Pneumonia",),
        ("Cardiomegaly",),
        FINDINGS,
    ]


@pytest.mark.parametrize("study", STUDIES)
def test_the_epoch_of_the_last_stage_is_chosen_by_cardiomegaly_accuracy(study):
    assert {config.choose_epoch_by for config in stages(study)["method"]} == {
        "cardiomegaly_accuracy"
    }


def test_the_head_and_the_rotation_are_those_of_the_method():
    assert MLP_WIDTHS == (625, 256) and DEGREES == 20


@pytest.mark.parametrize("name", ["demo", "transfer", "seed"])
def test_an_arm_without_stages_takes_as_many_steps_as_all_stages_together(name):
    """To within half an epoch; batches per epoch are those that the study files count."""
    plan = plan_study(REPO_ROOT / "studies" / f"{name}.yaml")
    batches = {"demo": [14, 54], "transfer": [256, 11, 66], "seed": [141, 320, 2318]}[name]
    end = "-s0-f0" if plan.folds else "-s0"
    direct, longer = (plan.runs[f"{arm}{end}"] for arm in ("direct", "direct_longer"))
    chain = [plan.runs[f"{plan.reference}{end}"]]
    while chain[-1].needs:
        chain.append(plan.runs[chain[-1].needs[0]])
    epochs = [stage.config.epochs for stage in reversed(chain)]
    steps = sum(count * size for count, size in zip(epochs, batches, strict=True))
    assert longer.config.epochs == pytest.approx(steps / batches[-1], abs=0.5)
    same = direct.config.model_dump(exclude={"epochs", "run_dir"})
    assert longer.config.model_dump(exclude={"epochs", "run_dir"}) == same
