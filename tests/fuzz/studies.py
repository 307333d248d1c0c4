"""In: the project's study files. Out: mutated ones, and what planning them does."""

import shutil
from pathlib import Path
from random import Random

import yaml

from fuzz.judge import called
from fuzz.mutate import mutate_bytes, mutate_values
from lib.config import REPO_ROOT
from lib.studies import plan_study


def prepare(folder: Path) -> None:
    """Copy the study files that are planned quickly."""
    for name in ("demo", "small", "transfer"):
        shutil.copy(REPO_ROOT / "studies" / f"{name}.yaml", folder)


def make(seeds: Path, folder: Path, rng: Random) -> None:
    """Mutate the values of a study, or its text."""
    text = rng.choice(sorted(seeds.iterdir())).read_text()
    if rng.random() < 0.4:
        data = mutate_bytes(text.encode(), rng)
    elif rng.random() < 0.02:
        data = b"a: " + b"[" * 20_000
    else:
        values = mutate_values(yaml.safe_load(text), rng)
        data = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode(errors="replace")
    (folder / "study.yaml").write_bytes(data)


def judge(folder: Path) -> str:
    """Plan the study."""
    return called(lambda: plan_study(folder / "study.yaml", runs_dir=folder / "runs"), "study.yaml")
