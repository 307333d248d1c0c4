"""One run on several devices: the same numbers as on one, resume, and how its processes end."""

import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist

from lib.config import REPO_ROOT, Config
from lib.exceptions import ModelError
from lib.metrics.calibration import Calibration
from lib.models import devices, ranks
from lib.models.batches import Loader, share
from lib.models.check import check_model
from lib.models.classifier import build_model, save_model
from lib.models.ranks import Ranks
from lib.models.training import CHECKPOINT, fit, make_fabric, model_cost, predict

pytestmark = pytest.mark.timeout(600)  # each process imports torch, on a machine that may be busy

CONFIG = Config(
    backbone="resnet10t",
    pretrained=False,
    image_size=32,
    epochs=2,
    batch_size=8,
    optimizer="adamw",
    weight_decay=0.05,
    dropout=0.0,
    ema=0.9,
    augment="full",
    findings=("Mass", "Nodule"),
    precision="32-true",
    accelerator="cpu",
)
TOGETHER = CONFIG.model_copy(update={"devices_per_run": 2})
SCORES = ["train_loss", "val_loss", "val_auroc", "val_average_precision"]
Trained = tuple[pd.DataFrame, dict[str, torch.Tensor]]


def loaders(config: Config, count: int = 27) -> tuple[Loader, Loader]:
    """Batches of 7 and 6 images for training, 13 for validation; some labels are unknown."""
    rng = np.random.default_rng(0)
    size = config.image_size
    store = rng.integers(0, 255, (40, size, size)).astype(np.uint8)
    targets = (rng.random((40, 2)) < 0.5).astype(np.float32)
    targets[::3, 1] = np.nan
    train, val = np.arange(count), np.arange(27, 40)
    shuffled = {"augment": config.augment, "shuffle": True, "seed": config.seed}
    return (
        Loader(store, train, targets[train], config.batch_size, **shuffled),
        Loader(store, val, targets[val], config.batch_size),
    )


def trained(config: Config, folder: Path, on_epoch=None, count: int = 27) -> Trained:
    model = build_model(config)
    history = fit(model, *loaders(config, count), config, folder, on_epoch)
    return history.drop(columns="seconds"), model.state_dict()


def processes() -> list[psutil.Process]:
    """The ranks that this process has started and that still run."""
    children = psutil.Process().children()
    return [child for child in children if "lib.models.ranks" in " ".join(child.cmdline())]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """One on each rank too: with other numbers of threads, other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Trained:
    return trained(CONFIG, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def together(folder) -> Trained:
    return trained(TOGETHER, folder)


def assert_same_curve(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    np.testing.assert_allclose(found[SCORES], wanted[SCORES], rtol=0, atol=1e-5)


def interrupt(row: dict) -> None:
    raise KeyboardInterrupt


# --- the same numbers


def test_two_devices_give_the_loss_curve_of_one(alone, together):
    assert_same_curve(together[0], alone[0])


def test_two_devices_give_the_weights_and_batch_norm_statistics_of_one(alone, together):
    assert together[1].keys() == alone[1].keys()
    assert any("running_var" in key for key in alone[1])
    for key, value in alone[1].items():
        torch.testing.assert_close(together[1][key], value, rtol=0, atol=1e-3, msg=key)


def test_the_checkpoint_has_the_names_that_one_device_gives(together, folder):
    content = torch.load(folder / CHECKPOINT, weights_only=True)
    assert list(content["model"]) == list(content["ema"]) == list(together[1])


def test_two_devices_learn_from_a_teacher_as_one_does(tmp_path):
    answers = tmp_path / "teacher"
    answers.mkdir()
    maps = Calibration.from_maps(CONFIG.findings, ["none", "platt"], [1.0, 0.5], [0.0, 0.3])
    card = {**CONFIG.network(), "calibration": maps.as_card()}
    save_model(answers, build_model(CONFIG.model_copy(update={"seed": 3})), card)
    taught = {"teacher": (str(answers),), "distil_weight": 0.7, "distil_temperature": 2.0}
    made = {}
    for count in (1, 2):
        config = CONFIG.model_copy(update={**taught, "devices_per_run": count})
        (tmp_path / str(count)).mkdir()
        made[count] = trained(config, tmp_path / str(count))
    assert_same_curve(made[2][0], made[1][0])


def test_a_device_without_an_image_changes_nothing(tmp_path):
    changes = {
        "backbone": "mobilenetv3_small_050",
        "image_size": 64,
        "batch_size": 1,
        "epochs": 1,
        "loss_reduction": "sum",
        "pos_weight": "balanced",
        "lr": 1e-5,
    }
    one, two = (config.model_copy(update=changes) for config in (CONFIG, TOGETHER))
    wanted, _ = trained(one, tmp_path / "one", count=5)
    found, _ = trained(two, tmp_path / "two", count=5)
    assert_same_curve(found, wanted)


def test_a_network_that_needs_an_image_on_every_device_is_refused(tmp_path, monkeypatch):
    def needs_images(images):
        return images.reshape(len(images), 4, -1)

    config = TOGETHER.model_copy(update={"batch_size": 1})
    model = build_model(config)
    monkeypatch.setattr(model.backbone, "forward", needs_images)
    with pytest.raises(ModelError, match="batch_size 1 leaves some of 2 devices without an image"):
        fit(model, *loaders(config), config, tmp_path)


@pytest.mark.parametrize(("count", "number"), [(7, 3), (2, 3), (0, 2), (8, 2)])
def test_shares_hold_everything_once_and_differ_by_at_most_one(count, number):
    parts = [np.arange(count)[share(count, rank, number)] for rank in range(number)]
    assert np.concatenate(parts).tolist() == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("kind", ["none", "rotate", "full"])
def test_the_shares_of_a_batch_are_the_batch_that_one_device_has(kind):
    loader, _ = loaders(CONFIG.model_copy(update={"augment": kind}))
    parts = [loader.epoch(1, rank=rank, ranks=3) for rank in range(3)]
    for whole, *shares in zip(loader.epoch(1), *parts, strict=True):
        for number in range(2):  # images, targets
            found = torch.cat([one[number] for one in shares])
            assert torch.equal(found.nan_to_num(9), whole[number].nan_to_num(9))


def test_a_batch_that_travels_as_bytes_is_augmented_to_the_same_images():
    loader, _ = loaders(CONFIG)
    read = loader.reader(1)
    for index, (images, targets) in enumerate(loader.epoch(1)):
        raw = read(index)
        assert raw.images.dtype == torch.uint8
        found, labels = raw.augmented(torch.device("cpu"))
        assert torch.equal(found, images)
        assert torch.equal(labels.nan_to_num(9), targets.nan_to_num(9))


def test_known_labels_are_counted_in_every_batch():
    loader, _ = loaders(CONFIG)
    counts = [int((~targets.isnan()).sum()) for _, targets in loader.epoch(1)]
    assert loader.known_labels(1) == counts and loader.smallest_batch() == 6


def test_after_training_one_device_predicts_every_image(together):
    _, val = loaders(TOGETHER)
    model = build_model(TOGETHER)
    model.load_state_dict(together[1])
    assert predict(model, val, TOGETHER).shape == (13, 2) and processes() == []


def test_the_record_says_how_many_devices_trained_the_run():
    assert model_cost(build_model(TOGETHER), TOGETHER)["device"]["devices"] == 2


# --- interruptions


def test_a_killed_rank_fails_the_run_with_the_reason_and_resumes_bit_for_bit(together, tmp_path):
    killed = []

    def kill(row: dict) -> None:
        (rank,) = processes()
        rank.send_signal(signal.SIGKILL)
        killed.append(rank.pid)

    with pytest.raises(ModelError, match=r"rank 1 \(pid \d+\) was killed by SIGKILL") as error:
        trained(TOGETHER, tmp_path, kill)
    assert str(killed[0]) in str(error.value) and processes() == []
    history, state = trained(TOGETHER, tmp_path)
    pd.testing.assert_frame_equal(history, together[0], check_exact=True)
    assert all(torch.equal(state[key], value) for key, value in together[1].items())


def test_an_interrupted_training_on_two_devices_goes_on_with_one(alone, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(TOGETHER, tmp_path, interrupt)
    assert processes() == [] and not dist.is_initialized()
    history, _ = trained(CONFIG, tmp_path)
    assert_same_curve(history, alone[0])


def test_an_interrupted_training_on_one_device_goes_on_with_two(alone, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        trained(CONFIG, tmp_path, interrupt)
    batch_system = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "10.0.0.1"}
    for name, value in {**batch_system, "SLURM_NTASKS": "4", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    history, _ = trained(TOGETHER, tmp_path)
    assert_same_curve(history, alone[0])


def test_a_diverging_loss_ends_all_ranks(tmp_path):
    config = TOGETHER.model_copy(update={"lr": 1e30, "clip_norm": 0.0, "ema": 0.0})
    with pytest.raises(ModelError, match="lower lr"):
        trained(config, tmp_path)
    assert processes() == []


def test_ranks_end_with_a_kernel_that_is_killed(popen, tmp_path):
    code = (
        "import time; from pathlib import Path\n"
        "from tests.test_ranks import TOGETHER, trained\n"
        f"trained(TOGETHER, Path({str(tmp_path)!r}), lambda row: time.sleep(600))"
    )
    paths = [str(REPO_ROOT), str(REPO_ROOT / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    kernel = popen([sys.executable, "-c", code], cwd=REPO_ROOT, env=environment)
    while not (tmp_path / CHECKPOINT).exists():
        assert kernel.poll() is None
        time.sleep(0.1)
    (rank,) = psutil.Process(kernel.pid).children()
    kernel.kill()
    assert psutil.wait_procs([rank], timeout=60)[1] == []


def test_an_error_in_a_rank_is_told():
    with (
        pytest.raises(ModelError, match=r"rank 1 .* exit code 1:(.|\n)*ZeroDivisionError"),
        Ranks(2, "gloo", operator.truediv, 0),
    ):
        dist.barrier()


def test_a_rank_that_ends_before_it_joins_does_not_keep_the_others_waiting(monkeypatch):
    def start(log: Path) -> subprocess.Popen:
        log.touch()
        suicide = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        return subprocess.Popen([sys.executable, "-c", suicide], stdin=subprocess.PIPE)

    monkeypatch.setattr(ranks, "_start_process", start)
    with pytest.raises(ModelError, match="killed by SIGKILL"), Ranks(2, "gloo", print):
        pass
    assert not dist.is_initialized()


def test_ranks_share_the_threads_and_give_them_back(monkeypatch):
    monkeypatch.setattr(Ranks, "_start", lambda ranks: None)
    torch.set_num_threads(5)
    try:
        with Ranks(2, "gloo", print):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(1)


# --- before training


def test_a_memory_map_travels_as_the_path_of_its_file(tmp_path):
    store = np.lib.format.open_memmap(tmp_path / "s.npy", "w+", np.uint8, (1000, 64, 64))
    store[7] = 7
    whole = np.load(tmp_path / "s.npy", mmap_mode="r")
    packed = ranks._packed((Loader(whole, np.arange(3), np.zeros((3, 2)), 2), whole[7:9]))
    loader, part = ranks.pickle.loads(packed)
    assert len(packed) < 20_000 and loader.store.shape == (1000, 64, 64)
    assert loader.store[7].min() == 7 and part[0].min() == 7 and part[1].max() == 0


def test_a_model_of_the_notebook_alone_is_refused():
    with pytest.raises(ModelError, match="cannot be sent to other processes"):
        ranks._packed((lambda: None,))


@pytest.mark.parametrize(("kind", "name"), [("cuda", "cuda devices"), ("cpu", "CPU cores")])
def test_more_devices_than_there_are_is_a_sentence_before_training(monkeypatch, kind, name):
    monkeypatch.setattr(devices, "visible_devices", lambda accelerator: (kind, 2))
    values = CONFIG.model_dump(include={"backbone", "pretrained", "image_size"})
    problem = check_model({**values, "devices_per_run": 3})
    assert problem.startswith(f"devices_per_run is 3, but the number of {name} that")
    assert check_model({**values, "devices_per_run": 2}) is None


def test_the_number_of_devices_changes_no_hash():
    assert TOGETHER.hash() == CONFIG.hash()


@pytest.mark.parametrize("variable", ["SLURM_NTASKS", "WORLD_SIZE", "RANK", "LOCAL_RANK"])
def test_a_run_that_asks_for_one_device_has_one(monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    fabric = make_fabric(CONFIG, build_model(CONFIG))
    assert (fabric.world_size, fabric.global_rank, fabric.device.type) == (1, 0, "cpu")
