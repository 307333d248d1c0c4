"""Studies: what is refused before anything starts, and the plan of runs that comes out."""

from pathlib import Path

import pytest
import yaml

from lib.config import REPO_ROOT, Config
from lib.exceptions import StudyError
from lib.studies.plan import Plan, plan_study

SEED = """
study: seed
seeds: [0, 1]
base: {image_size: 64, epochs: 5, lr: 5e-4, backbone: b0}
notebooks:
  transformer.ipynb: {backbone: vit, optimizer: adamw, lr: 1e-4}
runs:
  cardiomegaly: {notebook: single.ipynb, set: {data_dir: dataset_cardiomegaly, epochs: 3}}
  adaptive:     {notebook: multi.ipynb, init_from: cardiomegaly, reference: true}
  direct:       {changes: adaptive, init_from: null, about: no first stage}
  frozen:       {changes: adaptive, set: {freeze: backbone}}
  resnet50:     {changes: adaptive, set: {backbone: resnet50}}
  vit:          {changes: adaptive, notebook: transformer.ipynb}
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Writes a study whose notebooks exist; gives a function: text or changes -> plan."""
    monkeypatch.setattr("lib.config.REPO_ROOT", tmp_path)
    for name in ("single", "multi", "transformer"):
        (tmp_path / f"{name}.ipynb").touch()

    def plan(
        text: str = SEED, *settings: str, runs: dict | None = None, top: dict | None = None
    ) -> Plan:
        if runs or top:
            data = yaml.safe_load(text.replace("5e-4", "0.0005").replace("1e-4", "0.0001"))
            for name, row in (runs or {}).items():
                data["runs"][name] = row
            text = yaml.safe_dump({**data, **(top or {})}, sort_keys=False)
        file = tmp_path / "study.yaml"
        file.write_text(text)
        return plan_study(file, settings, runs_dir=tmp_path / "runs")

    return plan


def refused(study, *words: str, **changes) -> str:
    with pytest.raises(StudyError) as caught:
        study(**changes)
    message = str(caught.value)
    assert all(word in message for word in ("study.yaml", *words)), message
    return message


# --- the plan


def test_every_arm_has_one_run_a_seed_and_folders_are_named_after_it(study):
    plan = study()
    arms = {run.name for run in plan.runs.values() if not run.prerequisite}
    assert arms == {
        f"{arm}-s{seed}"
        for arm in ("adaptive", "direct", "frozen", "resnet50", "vit")
        for seed in (0, 1)
    }


def test_identical_prerequisites_run_once_and_say_what_they_inherited(study):
    prerequisites = [
        run.name for run in study().runs.values() if run.prerequisite and run.seed == 0
    ]
    assert prerequisites == ["cardiomegaly-s0", "cardiomegaly-resnet50-s0", "cardiomegaly-vit-s0"]


def test_what_is_needed_comes_before_what_needs_it(study):
    names = list(study().runs)
    assert all(
        names.index(need) < names.index(run.name)
        for run in study().runs.values()
        for need in run.needs
    )


def test_a_dependent_run_starts_from_its_prerequisites_folder(study, tmp_path):
    run = study().runs["resnet50-s1"]
    assert run.needs == ("cardiomegaly-resnet50-s1",)
    assert Path(run.config.init_from) == tmp_path / "runs/seed/cardiomegaly-resnet50-s1"


def test_init_from_null_needs_nothing(study):
    run = study().runs["direct-s0"]
    assert run.needs == () and run.config.init_from is None and run.about == "no first stage"


def test_a_prerequisite_inherits_the_recipe_of_the_backbone(study):
    config = study().runs["cardiomegaly-vit-s0"].config
    assert (config.backbone, config.optimizer, config.lr) == ("vit", "adamw", 1e-4)


def test_a_prerequisite_does_not_inherit_freeze(study):
    assert study().runs["frozen-s0"].needs == ("cardiomegaly-s0",)


def test_a_prerequisite_keeps_the_epochs_that_its_row_sets(study):
    plan = study(runs={"long": {"changes": "adaptive", "set": {"epochs": 9}}})
    assert plan.runs["long-s0"].needs == ("cardiomegaly-s0",)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 9), ("clip_norm", 0.0), ("split_by", "image"), ("loss_reduction", "sum")],
)
def test_a_prerequisite_inherits_the_rest_of_the_recipe(study, name, value):
    first = {"notebook": "single.ipynb", "set": {"data_dir": "dataset_cardiomegaly"}}
    plan = study(
        runs={"cardiomegaly": first, "other": {"changes": "adaptive", "set": {name: value}}}
    )
    (need,) = plan.runs["other-s0"].needs
    assert getattr(plan.runs[need].config, name) == value


def test_a_chain_of_prerequisites_passes_the_backbone_on(study):
    first = {"notebook": "single.ipynb", "set": {"data_dir": "pneumonia"}}
    plan = study(
        runs={
            "pneumonia": first,
            "cardiomegaly": {"notebook": "single.ipynb", "init_from": "pneumonia"},
        }
    )
    assert plan.runs["cardiomegaly-resnet50-s0"].needs == ("pneumonia-resnet50-s0",)
    assert plan.runs["pneumonia-resnet50-s0"].config.backbone == "resnet50"


def test_an_arm_may_start_from_another_arm_which_runs_once(study):
    plan = study(runs={"again": {"changes": "adaptive", "init_from": "direct"}})
    assert plan.runs["again-s0"].needs == ("direct-s0",) and not plan.runs["direct-s0"].prerequisite


def test_a_prerequisite_that_equals_an_arm_is_that_arm(study):
    single = {"notebook": "single.ipynb", "set": {"data_dir": "dataset_cardiomegaly", "epochs": 3}}
    assert study(runs={"single": single}).runs["adaptive-s0"].needs == ("single-s0",)


def test_prerequisites_that_would_share_a_name_say_more(study):
    other = {"changes": "resnet50", "set": {"head": "linear"}}
    names = [
        run.name for run in study(runs={"other": other}).runs.values() if "resnet50-" in run.name
    ]
    assert {"cardiomegaly-resnet50-s0", "cardiomegaly-resnet50-linear-s0"} < set(names)


def test_a_row_named_like_a_prerequisite_keeps_its_name(study):
    row = {"changes": "adaptive", "set": {"ema": 0.9}}
    plan = study(runs={"cardiomegaly-resnet50": row})
    assert plan.runs["cardiomegaly-resnet50-s0"].arm == "cardiomegaly-resnet50"
    assert plan.runs["resnet50-s0"].needs[0].startswith("cardiomegaly-resnet50-")


def test_a_notebook_brings_its_own_defaults_and_nothing_else_changes(study):
    adaptive, vit = (study().runs[f"{name}-s0"] for name in ("adaptive", "vit"))
    one, other = adaptive.config.model_dump(), vit.config.model_dump()
    assert {key for key in one if one[key] != other[key]} == {
        "backbone",
        "optimizer",
        "lr",
        "init_from",
        "run_dir",
    }
    assert vit.notebook == "transformer.ipynb" and vit.what == "notebook=transformer.ipynb"


def test_rows_may_change_rows_that_change_rows(study):
    plan = study(runs={"both": {"changes": "frozen", "set": {"head": "linear"}}})
    config = plan.runs["both-s0"].config
    assert (config.freeze, config.head) == ("backbone", "linear")


def test_a_row_may_have_its_own_seeds(study):
    plan = study(
        runs={"frozen": {"changes": "adaptive", "set": {"freeze": "backbone"}, "seeds": [1, 7]}}
    )
    assert [run.name for run in plan.runs.values() if run.arm == "frozen"] == [
        "frozen-s1",
        "frozen-s7",
    ]
    assert "cardiomegaly-s7" in plan.runs


def test_the_plan_as_json_tells_what_a_run_changes(study):
    planned = study().as_json()
    run = planned["runs"]["resnet50-s0"]
    assert planned["reference"] == "adaptive" and planned["seeds"] == [0, 1]
    assert (run["arm"], run["changes"], run["what"]) == (
        "resnet50",
        "adaptive",
        "backbone=resnet50",
    )
    assert Config(**run["config"]).hash() == run["config_hash"]


def test_the_lineage_changes_with_a_prerequisite_though_the_config_does_not(study):
    before, after = study(), study(SEED.replace("epochs: 3", "epochs: 4"))
    assert before.runs["adaptive-s0"].config == after.runs["adaptive-s0"].config
    assert before.runs["adaptive-s0"].lineage != after.runs["adaptive-s0"].lineage
    assert before.runs["direct-s0"].lineage == after.runs["direct-s0"].lineage


# --- overrides


def test_an_override_beats_base_and_notebooks_but_not_what_a_row_sets(study):
    plan = study(SEED, "lr=1e-3", "backbone=resnet18", "seeds=3")
    assert plan.runs["vit-s3"].config.lr == plan.runs["adaptive-s3"].config.lr == 1e-3
    assert plan.runs["resnet50-s3"].config.backbone == "resnet50"
    assert {run.seed for run in plan.runs.values()} == {3}


def test_epochs_and_data_root_hold_for_every_run(study):
    plan = study(SEED, "epochs=1", "data_root=/data")
    assert {(run.config.epochs, run.config.data_root) for run in plan.runs.values()} == {
        (1, "/data")
    }


def test_epochs_leave_a_run_that_changes_them(study):
    plan = study(SEED, "epochs=1", runs={"long": {"changes": "adaptive", "set": {"epochs": 9}}})
    assert plan.runs["long-s0"].config.epochs == 9


@pytest.mark.parametrize("text", ["007", "true", "1.50", "null", "a: b"])
def test_an_override_of_a_text_parameter_stays_as_it_is_written(study, text):
    assert study(SEED, f"data_root={text}").runs["direct-s0"].config.data_root == text


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epochs", "KEY=VALUE"),
        ("epoch=1", "did you mean 'epochs'"),
        ("epochs=many", "'epochs' is 'many'"),
        ("seeds=x", "whole numbers"),
        ("run_dir=x", "the runner chooses"),
    ],
)
def test_a_wrong_override_is_refused(study, setting, words):
    with pytest.raises(StudyError, match=f"--set {setting}.*{words}"):
        study(SEED, setting)


# --- what is refused


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"changes": "adaptive", "set": {"lr": 0.1, "head": "linear"}},
            ["changes 2 things (lr, head)"],
        ),
        (
            {"changes": "adaptive", "set": {"lr": 0.1}, "init_from": None},
            ["changes 2 things (init_from, lr)"],
        ),
        ({"changes": "adaptive"}, ["changes nothing"]),
        ({"changes": "adaptive", "set": {"freeze": "none"}}, ["same experiment as run 'adaptive'"]),
        (
            {"changes": "adaptiv", "set": {"lr": 0.1}},
            ["'changes'", "unknown run 'adaptiv'", "did you mean 'adaptive'"],
        ),
        ({"changes": "adaptive", "init_from": "nothing"}, ["'init_from'", "unknown run 'nothing'"]),
        (
            {"changes": "adaptive", "set": {"bakbone": "x"}},
            ["unknown parameter 'bakbone'", "did you mean 'backbone'"],
        ),
        (
            {"changes": "adaptive", "set": {"epochs": "5"}},
            ["'set'", "'epochs' is '5'", "valid integer"],
        ),
        (
            {"changes": "adaptive", "set": {"freeze": "all"}},
            ["'freeze' is 'all'", "'none' or 'backbone'"],
        ),
        ({"changes": "adaptive", "set": {"seed": 3}}, ["'seed' cannot be set here", "seeds"]),
        ({"changes": "adaptive", "set": {"init_from": "x"}}, ["'init_from' cannot be set here"]),
        (
            {"changes": "adaptive", "sets": {"lr": 0.1}},
            ["unknown field 'sets'", "did you mean 'set'"],
        ),
        ({"changes": "adaptive", "notebook": "none.ipynb"}, ["none.ipynb does not exist"]),
        ({"notebook": "multi.txt"}, ["'multi.txt' is not the path of a notebook"]),
        ({"set": {"lr": 0.1}}, ["field 'notebook' is missing"]),
        (
            {"notebook": "multi.ipynb", "seeds": [0, 0]},
            ["'seeds' is [0, 0]", "different whole numbers"],
        ),
        (
            {"notebook": "multi.ipynb", "reference": True},
            ["exactly one", "there are 2: adaptive, odd"],
        ),
        ({"notebook": "multi.ipynb", "reference": "yes"}, ["'reference' is 'yes'"]),
        ({"changes": "odd", "set": {"lr": 0.1}}, ["cycle: odd -> odd"]),
        ({"notebook": "multi.ipynb", "init_from": "odd"}, ["cycle: odd -> odd"]),
        ("text", ["must be a mapping"]),
    ],
)
def test_a_wrong_row_is_refused_naming_file_row_and_field(study, row, words):
    refused(study, "'odd'" if "exactly one" not in words else "odd", *words, runs={"odd": row})


def test_a_long_cycle_is_told_whole(study):
    rows = {"a": {"changes": "b", "set": {"lr": 0.1}}, "b": {"changes": "a", "set": {"ema": 0.1}}}
    refused(study, "cycle: a -> b -> a", runs=rows)


def test_a_backbone_that_the_prerequisite_contradicts_is_refused(study):
    row = {"notebook": "single.ipynb", "set": {"backbone": "b0"}}
    refused(
        study,
        "'resnet50'",
        "remove backbone from the set of 'cardiomegaly'",
        runs={"cardiomegaly": row},
    )


def test_seeds_of_a_prerequisite_are_refused(study):
    row = {"notebook": "single.ipynb", "seeds": [5]}
    refused(study, "run 'cardiomegaly'", "remove field 'seeds'", runs={"cardiomegaly": row})


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ({"run": {}}, ["unknown field 'run'", "did you mean 'runs'"]),
        ({"study": "a/b"}, ["'study' is 'a/b'"]),
        ({"seeds": "0"}, ["field 'seeds' is '0'"]),
        ({"seeds": []}, ["field 'seeds' is []"]),
        ({"base": {"lr": "fast"}}, ["base", "'lr' is 'fast'"]),
        ({"base": {"run_dir": "x"}}, ["base", "'run_dir' cannot be set here"]),
        ({"notebooks": {"other.ipynb": {}}}, ["other.ipynb does not exist"]),
        ({"notebooks": {"multi.ipynb": {"lrr": 1}}}, ["multi.ipynb", "unknown parameter 'lrr'"]),
        ({"runs": {}}, ["exactly one run"]),
        (
            {"runs": {"a b": {"notebook": "multi.ipynb", "reference": True}}},
            ["'a b'", "becomes a folder's"],
        ),
    ],
)
def test_a_wrong_file_is_refused_naming_the_field(study, top, words):
    refused(study, *words, top=top)


def test_all_problems_are_told_at_once(study):
    message = refused(
        study,
        top={"base": {"lrr": 1}},
        runs={"odd": {"changes": "adaptive", "set": {"epochs": "5"}}},
    )
    assert len(message.splitlines()) == 2


def test_a_key_given_twice_is_refused_with_its_line(study):
    refused(
        study,
        "line 14",
        "'vit' is given twice",
        text=SEED + "  vit: {changes: adaptive, set: {lr: 1.0}}\n",
    )


def test_a_missing_reference_is_refused(study):
    refused(study, "exactly one", "there is none", text=SEED.replace(", reference: true", ""))


@pytest.mark.parametrize("text", ["", "[1, 2]", "runs: [", "\t"])
def test_a_file_that_is_no_study_is_refused(study, text):
    refused(study, text=text)


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"none\.yaml is not a file"):
        plan_study(tmp_path / "none.yaml")


# --- the studies that ship


@pytest.mark.parametrize(
    ("name", "reference", "seeds"),
    [
        ("demo", "adaptive", (0, 1)),
        ("transfer", "three_stages", (0, 1, 2)),
        ("seed", "three_stages", (0, 1, 2)),
        ("small", "darknet", (0, 1)),
        ("losses", "bce", (0, 1)),
    ],
)
def test_a_shipped_study_plans_and_names_backbones_that_timm_knows(name, reference, seeds):
    timm = pytest.importorskip("timm")
    plan = plan_study(REPO_ROOT / "studies" / f"{name}.yaml")
    assert {
        run.config.backbone for run in plan.runs.values() if not timm.is_model(run.config.backbone)
    } == set()
    assert (plan.reference, plan.seeds) == (reference, seeds)


STAGES = {"three_stages", "from_pneumonia", "from_cardiomegaly", "direct", "direct_longer"}
QUESTIONS = {"scratch", "frozen", "freeze_1", "single_task", "method", "phantoms_first"}
CURVES = {f"{arm}_{share}" for arm in ("three_stages", "direct", "scratch") for share in (10, 30)}


@pytest.mark.parametrize("name", ["transfer", "seed"])
def test_the_studies_of_stages_ask_the_same_questions(name):
    plan = plan_study(REPO_ROOT / "studies" / f"{name}.yaml")
    arms = {run.arm for run in plan.runs.values() if not run.prerequisite}
    assert arms >= STAGES | QUESTIONS | CURVES


@pytest.mark.parametrize("name", ["transfer", "seed"])
def test_a_stage_on_phantoms_is_not_the_arm_with_the_same_recipe_on_real_images(name):
    runs = plan_study(REPO_ROOT / "studies" / f"{name}.yaml", ["folds=0"]).runs
    assert runs["phantoms_first-s0"].needs == ("phantoms-s0",)


def test_a_stage_on_phantoms_looks_for_weights_where_the_others_do(study):
    data = yaml.safe_load(SEED.replace("5e-4", "0.0005").replace("1e-4", "0.0001"))
    data["runs"]["cardiomegaly"]["set"] = {"data_root": "dataset_phantom"}
    data["base"]["pretrained"] = "w.pth"
    runs = study(yaml.safe_dump(data, sort_keys=False), "data_root=/elsewhere").runs
    places = [runs[name].config.weights_places for name in ("cardiomegaly-s0", "adaptive-s0")]
    assert places[0] == places[1] and str(places[0][1]) == "/elsewhere/w.pth"


def test_the_full_size_study_asks_every_question_of_the_method():
    arms = {
        run.arm: run.config for run in plan_study(REPO_ROOT / "studies" / "seed.yaml").runs.values()
    }
    backbones = {config.backbone.split(".")[0] for config in arms.values()}
    method = {
        "tf_efficientnet_b4",
        "vgg16_bn",
        "resnet50",
        "darknet53",
        "vit_base_patch16_224",
        "vit_large_patch16_224",
    }
    assert method | {"convnext_base"} <= backbones
    assert arms["pixels_512"].image_size == 512
    assert arms["linear"].head == "linear" and arms["single_task"].findings == ("Cardiomegaly",)
    assert "pneumonia" in arms["cardiomegaly_after_pneumonia"].init_from


def test_a_study_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "s.yaml").write_bytes("study: tiny # für".encode("latin-1"))
    with pytest.raises(StudyError, match=r"s.yaml is not text in UTF-8"):
        plan_study(tmp_path / "s.yaml")


# --- folds


def test_with_folds_every_arm_and_stage_is_trained_once_per_seed_and_fold(study):
    runs = study(top={"folds": 3}).runs
    assert [name for name in runs if name.startswith("direct-")] == [
        f"direct-s{seed}-f{fold}" for seed in (0, 1) for fold in range(3)
    ]
    assert runs["adaptive-s1-f2"].needs == ("cardiomegaly-s1-f2",)
    assert {(run.config.folds, run.config.fold) for run in runs.values()} == {
        (3, fold) for fold in range(3)
    }


def test_a_stage_that_keeps_its_official_lists_is_shared_by_all_folds(study):
    stage = {"notebook": "single.ipynb", "folds": 0}
    runs = study(top={"folds": 3}, runs={"cardiomegaly": stage}).runs
    assert {runs[f"adaptive-s0-f{fold}"].needs for fold in range(3)} == {("cardiomegaly-s0",)}
    assert runs["cardiomegaly-s0"].config.folds == 0


def test_without_folds_names_and_hashes_are_those_of_before(study):
    run = study().runs["direct-s0"]
    assert run.config.hash() == Config(**run.config.model_dump(exclude={"folds", "fold"})).hash()


def test_the_plan_says_how_many_folds_there_are(study):
    assert study(top={"folds": 3}).as_json()["folds"] == 3
    assert study().as_json()["folds"] == 0


def test_folds_may_be_set_on_the_command_line(study):
    plan = study(yaml.safe_dump(yaml.safe_load(SEED.replace("5e-4", "0.0005"))), "folds=2")
    assert plan.folds == 2 and "direct-s0-f1" in plan.runs


@pytest.mark.parametrize("value", [1, -2, "five", 2.5])
def test_impossible_folds_are_refused(study, value):
    refused(study, "folds", "0 (official lists) or a whole number from 2 on", top={"folds": value})


@pytest.mark.parametrize("name", ["fold", "folds"])
def test_a_row_sets_no_fold(study, name):
    row = {"changes": "adaptive", "set": {name: 2}}
    refused(study, f"parameter '{name}' cannot be set here", runs={"odd": row})


@pytest.mark.parametrize(("stage", "arm"), [(3, 5), (5, 3), (5, 0)])
def test_a_stage_of_other_folds_than_the_run_that_needs_it_is_refused(study, stage, arm):
    """It would train on patients whom that run tests, or leave out some for nothing."""
    data = yaml.safe_load(SEED.replace("5e-4", "0.0005").replace("1e-4", "0.0001"))
    data["runs"]["cardiomegaly"]["folds"] = stage
    words = f"tested in {arm} folds, but run 'cardiomegaly', from which it starts, in {stage}"
    refused(study, words, text=yaml.safe_dump(data, sort_keys=False), top={"folds": arm})


def test_another_data_root_leaves_the_phantoms_where_they_are(study):
    data = yaml.safe_load(SEED.replace("5e-4", "0.0005").replace("1e-4", "0.0001"))
    data["runs"]["cardiomegaly"]["set"] = {"data_root": "dataset_phantom"}
    runs = study(yaml.safe_dump(data, sort_keys=False), "data_root=/elsewhere").runs
    assert runs["cardiomegaly-s0"].config.data_root == "dataset_phantom"
    assert runs["adaptive-s0"].config.data_root == "/elsewhere"


def test_a_study_may_run_under_another_name(study, tmp_path):
    study()
    plan = plan_study(tmp_path / "study.yaml", name="again", runs_dir=tmp_path / "runs")
    assert plan.study == "again" and plan.folder == tmp_path / "runs" / "again"
    with pytest.raises(StudyError, match="a name of letters"):
        plan_study(tmp_path / "study.yaml", name="a/b")


# --- files that nobody meant to write


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("study: a\n3: b\nnull: c\n", "the names of fields must be text; 3, None is not"),
        ("study: " + "[" * 20_000, "is not valid YAML: its values are nested too deeply"),
        ("study: 2001-13-45\n", "is not valid YAML: month must be in 1..12"),
        ("study: 0b_\n", "is not valid YAML: invalid literal"),
    ],
)
def test_yaml_that_is_no_study_is_one_sentence(tmp_path, text, words):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(StudyError, match=r"s\.yaml") as caught:
        plan_study(tmp_path / "s.yaml")
    assert words in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [5, True, [1, 2], "lr"])
def test_settings_that_are_no_mapping_are_refused(study, value):
    row = {"changes": "adaptive", "set": value}
    refused(study, "run 'odd', field 'set' is", "must be a mapping", runs={"odd": row})


def test_folds_beyond_any_use_are_refused_before_they_are_planned(study):
    refused(study, "folds", "up to 100", top={"folds": 2**40})


def test_a_value_that_would_be_gigabytes_of_text_is_shown_shortly(tmp_path):
    """Each of 40 lists names the one before twice."""
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    (tmp_path / "s.yaml").write_text("study: s\n" + "\n".join(lines) + "\nbase: *a39\nruns: *a39\n")
    with pytest.raises(StudyError, match=r"s\.yaml: base is \[\[") as caught:
        plan_study(tmp_path / "s.yaml")
    assert len(str(caught.value)) < 20_000


def test_a_notebook_whose_name_no_disk_holds_is_refused(study):
    row = {"notebook": "a" * 300 + ".ipynb", "init_from": "cardiomegaly"}
    refused(study, "does not exist below", runs={"odd": row})
