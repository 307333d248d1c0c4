"""In: the folder of a study and an arm. Out: the runs that the arm goes through, one chain per seed
and fold, from the first stage to the last."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.runs.study import read_plan, read_runs


@dataclass(frozen=True)
class Chain:
    """The complete runs of one arm, seed and fold: the first stage first, the arm's own run last.

    Chains of other folds may share a run: a stage that has a test set of its own is trained once
    per seed.
    """

    seed: int
    fold: int
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Stages:
    """The stages of an arm, the first one first, and the chains of runs that went through them.

    names: one per stage, "Pneumonia stage". sets: the dataset folders of each. incomplete: how
    many planned chains miss a run. planned: the entries of plan.json by run.
    """

    folder: Path
    arm: str
    names: tuple[str, ...]
    sets: tuple[str, ...]
    chains: tuple[Chain, ...]
    incomplete: int
    planned: dict[str, dict[str, Any]]

    @property
    def runs(self) -> list[str]:
        """Every run of the chains, once."""
        return list(dict.fromkeys(run for chain in self.chains for run in chain.runs))

    def config(self, run: str) -> dict[str, Any]:
        """The planned config of a run, as JSON values."""
        return self.planned[run]["config"]

    def test_fold(self, chain: Chain, stage: int) -> tuple[int, int]:
        """The number of folds, and the one whose patients a stage of a chain is tested on; (0, 0)
        where all chains share them."""
        config = self.config(chain.runs[stage])
        folds = config.get("folds", 0)
        return (folds, config.get("fold", 0)) if folds else (0, 0)

    def notes(self) -> list[str]:
        """Whether chains are missing, in a sentence."""
        if not self.incomplete:
            return []
        total = self.incomplete + len(self.chains)
        return [f"{self.incomplete} of {total} chains of {self.arm} miss a run and are left out."]


def read_stages(folder: Path, arm: str | None = None) -> Stages:
    """The stages of an arm, by default the reference; one stage alone where it starts from no run.

    Raises RunError where the folder holds no study, or no run of it is complete.
    """
    plan, complete = read_plan(folder), set(read_runs(folder)["run"])
    planned, arm = plan["runs"], arm or plan["reference"]
    every = [
        _chain(planned, name)
        for name, run in planned.items()
        if run["arm"] == arm and not run["prerequisite"]
    ]
    chains = tuple(chain for chain in every if complete.issuperset(chain.runs))
    configs = [planned[name]["config"] for name in (every[0].runs if every else ())]
    names = _stage_names([planned[name] for name in (every[0].runs if every else ())])
    sets = tuple(" and ".join(Path(one).name for one in c["data_dir"]) for c in configs)
    missing = len(every) - len(chains)
    return Stages(folder, arm, names, sets, chains, missing, planned)


def direct_runs(stages: Stages) -> tuple[str, dict[tuple[int, int], str]]:
    """The arm that differs from these stages' arm in having no stage before, and its complete runs
    by (seed, fold); ("", {}) where there is none."""
    complete = set(read_runs(stages.folder)["run"])
    found: dict[str, dict[tuple[int, int], str]] = {}
    for name, run in stages.planned.items():
        if run["what"] == "init_from=None" and run["changes"] == stages.arm and name in complete:
            key = (run["seed"], run["config"].get("fold", 0))
            found.setdefault(run["arm"], {})[key] = name
    return next(iter(found.items()), ("", {}))


def _chain(planned: dict[str, dict[str, Any]], name: str) -> Chain:
    run = planned[name]
    runs = [name]
    while start := planned[runs[0]]["config"].get("init_from"):
        runs.insert(0, Path(start).name)
    return Chain(run["seed"], run["config"].get("fold", 0), tuple(runs))


def _stage_names(runs: list[dict[str, Any]]) -> tuple[str, ...]:
    """By what a stage predicts; with its arm's name where two predict the same."""
    names = [_task(run["config"]["findings"]) for run in runs]
    counts = Counter(names)
    return tuple(
        name if counts[name] == 1 else f"{name} ({run['arm']})"
        for name, run in zip(names, runs, strict=True)
    )


def _task(findings: list[str]) -> str:
    return f"{findings[0]} stage" if len(findings) == 1 else f"{len(findings)}-finding stage"
