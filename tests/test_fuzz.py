"""A few hundred of `make fuzz`'s inputs, and that the fuzzer notices what it looks for."""

import importlib
import os
import signal
from pathlib import Path
from random import Random

import numpy as np
import pytest
from fuzz.judge import Problem, called
from fuzz.mutate import mutate_bytes, mutate_table, mutate_values
from fuzz.run import KINDS, Kind, Limits, fuzz, outcome, sound_files

from lib.exceptions import CxrError

BAD = {
    name: Kind(1, "test_fuzz", "nothing", "number", name)
    for name in ("works", "refuses", "raises", "ends", "computes", "grows")
}


def nothing(seeds: Path) -> None:
    """No sound files are needed."""


def number(seeds: Path, folder: Path, rng: Random) -> None:
    (folder / "input").write_text(str(rng.random()))


def works(folder: Path) -> str:
    return called(lambda: None, "input")


def refuses(folder: Path) -> str:
    return called(lambda: (_ for _ in ()).throw(CxrError("input is odd")).__next__(), "input")


def raises(folder: Path) -> str:
    raise KeyError("a bug")


def ends(folder: Path) -> str:
    os.kill(os.getpid(), signal.SIGSEGV)
    return "worked"


def computes(folder: Path) -> str:
    while True:
        pass


def grows(folder: Path) -> str:
    held = []
    while True:
        held.append(np.ones(2**22))


def waits(folder: Path) -> str:
    signal.pause()
    return "worked"


@pytest.mark.timeout(1800)
def test_some_mutated_inputs_of_every_kind_are_used_or_refused_by_name(tmp_path):
    found = fuzz(200, seed=1, keep=tmp_path)
    assert found.problems == []
    assert set(found.table()["kind"]) == {*KINDS, "all"}
    assert all(found.table()["inputs"] > 0) and all(found.table()["refused"] > 0)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_mutated_works(name, tmp_path, monkeypatch):
    """Else a kind would look fine because everything of it is refused."""
    kind = KINDS[name]
    module = importlib.import_module(kind.module)
    for mutate in ("mutate_bytes", "mutate_table", "mutate_json", "mutate_values"):
        monkeypatch.setattr(module, mutate, same, raising=False)
    for changed in ("_with_other_elements", "_mutate_graph", "_mutated_weights", "_rename"):
        monkeypatch.setattr(module, changed, same, raising=False)
    monkeypatch.setattr(module, "_mutated_content", lambda content, rng: None, raising=False)
    seeds = sound_files(kind, tmp_path)
    assert "worked" in {
        outcome(kind, Random(seed), seeds, tmp_path / str(seed)) for seed in range(5)
    }


def same(sound, rng, **options):
    """No mutation: the sound file, in the form that is written."""
    if isinstance(sound, Path):
        (sound.parent / "mutated").write_text("classes")
    return sound.encode() if isinstance(sound, str) else sound


@pytest.mark.timeout(900)
def test_what_must_not_be_is_counted_and_its_input_kept(tmp_path, capsys):
    limits = Limits(cpu_seconds=5.0, memory=2**30)
    found = fuzz(len(BAD), 5, tmp_path, kinds=BAD, limits=limits)
    told = {kind: text.split(":")[0] for kind, _, text in found.problems}
    assert told == {
        "raises": "KeyError",
        "ends": "crash",
        "computes": "hang",
        "grows": "memory",
    }
    assert found.counts["works", "worked"] == found.counts["refuses", "refused"] == 1
    assert (tmp_path / "raises-5-0" / "input").exists()
    assert "raises:0 of seed 5" in capsys.readouterr().out


@pytest.mark.timeout(900)
def test_what_waits_for_ever_is_a_hang(tmp_path):
    kinds = {"waits": Kind(1, "test_fuzz", "nothing", "number", "waits")}
    found = fuzz(1, 5, tmp_path, workers=1, kinds=kinds, limits=Limits(wall_seconds=90.0))
    assert [text for _, _, text in found.problems] == ["hang: more than 90 s"]


def test_a_refusal_that_does_not_name_the_file_is_a_problem():
    def refuse() -> None:
        raise CxrError("something is wrong")

    with pytest.raises(Problem, match=r"does not name table\.csv: something is wrong"):
        called(refuse, "table.csv")


@pytest.mark.parametrize(
    ("mutate", "sound"),
    [
        (mutate_bytes, bytes(range(256))),
        (mutate_table, "a,b\n1,2\n3,4\n"),
        (mutate_values, {"a": [1, {"b": 2}], "c": "d"}),
    ],
)
def test_the_same_seed_makes_the_same_input(mutate, sound):
    made = [[repr(mutate(sound, Random(seed))) for seed in range(50)] for _ in range(2)]
    assert made[0] == made[1] and len(set(made[0])) > 25
