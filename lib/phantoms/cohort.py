"""In: how many people and a seed. Out: a list of films to draw: who, when, which view, which
findings.

Frequencies follow the shape of NIH ChestX-ray14 (Wang et al., CVPR 2017), with its rare findings
made frequent enough to be measured: Infiltration leads, Effusion comes with Atelectasis, Edema with
portable films, and so on.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lib.config import FINDINGS

# How often each is the main finding of a sick person.
MAIN = {
    "Infiltration": 0.100,
    "Effusion": 0.062,
    "Atelectasis": 0.062,
    "Nodule": 0.072,
    "Mass": 0.072,
    "Pneumothorax": 0.074,
    "Consolidation": 0.072,
    "Pleural_Thickening": 0.070,
    "Cardiomegaly": 0.080,
    "Emphysema": 0.074,
    "Edema": 0.060,
    "Fibrosis": 0.076,
    "Pneumonia": 0.078,
    "Hernia": 0.084,
}
# How often a second finding accompanies the main one.
WITH = {
    "Infiltration": {
        "Effusion": 0.12,
        "Atelectasis": 0.12,
        "Edema": 0.05,
        "Nodule": 0.05,
        "Pneumonia": 0.05,
    },
    "Effusion": {
        "Atelectasis": 0.35,
        "Infiltration": 0.25,
        "Consolidation": 0.15,
        "Cardiomegaly": 0.10,
    },
    "Atelectasis": {"Effusion": 0.30, "Infiltration": 0.25, "Consolidation": 0.08},
    "Nodule": {"Mass": 0.15, "Infiltration": 0.20},
    "Mass": {"Nodule": 0.25, "Effusion": 0.15, "Infiltration": 0.20, "Atelectasis": 0.08},
    "Pneumothorax": {"Emphysema": 0.18, "Effusion": 0.12, "Infiltration": 0.18},
    "Consolidation": {
        "Effusion": 0.35,
        "Infiltration": 0.25,
        "Atelectasis": 0.15,
        "Pneumonia": 0.08,
    },
    "Pleural_Thickening": {"Effusion": 0.18, "Fibrosis": 0.10, "Infiltration": 0.18},
    "Cardiomegaly": {"Effusion": 0.25, "Edema": 0.12, "Atelectasis": 0.12, "Infiltration": 0.15},
    "Emphysema": {"Pneumothorax": 0.25, "Infiltration": 0.18},
    "Edema": {"Effusion": 0.35, "Infiltration": 0.30, "Cardiomegaly": 0.15},
    "Fibrosis": {"Infiltration": 0.22, "Pleural_Thickening": 0.12},
    "Pneumonia": {"Infiltration": 0.30, "Edema": 0.08, "Effusion": 0.12},
    "Hernia": {"Atelectasis": 0.15, "Infiltration": 0.08},
}
SICK = 0.61  # share of people with a main finding; their films are not all abnormal
ELDERLY = ("Cardiomegaly", "Emphysema", "Fibrosis", "Hernia", "Pleural_Thickening", "Edema")
PORTABLE = {
    "Edema": 0.85,
    "Pneumothorax": 0.6,
    "Effusion": 0.55,
    "Consolidation": 0.6,
    "Pneumonia": 0.55,
}
TEST_EVERY = 4  # one person in four
FILMS = (1, 2, 1, 4, 2, 1, 5, 2, 3)  # films per person, dealt in turn


@dataclass(frozen=True)
class Film:
    """One film to draw; `findings` is what its label says (empty: No Finding)."""

    patient: int
    number: int  # follow-up, from 0
    age: int
    sex: str
    view: str
    findings: tuple[str, ...]
    test: bool

    @property
    def name(self) -> str:
        return f"{self.patient:08d}_{self.number:03d}.png"

    @property
    def label(self) -> str:
        """Findings as the NIH's table writes them."""
        return "|".join(sorted(self.findings)) or "No Finding"


class _Person(NamedTuple):
    main: str | None
    films: int
    test: bool


def draw_cohort(patients: int, seed: int) -> list[Film]:
    """1 to 5 films of each of `patients` people, numbered from 1; a quarter of them, of every kind,
    are test."""
    rng = np.random.default_rng([seed, 400])
    return _films(rng, _deal(rng, patients, SICK, MAIN), first=1)


def draw_cardiomegaly_cohort(patients: int, seed: int, first: int) -> list[Film]:
    """Other people, numbered from `first`, each film showing Cardiomegaly (perhaps with more) or
    nothing at all."""
    rng = np.random.default_rng([seed, 401])
    films = _films(rng, _deal(rng, patients, 0.5, {"Cardiomegaly": 1.0}), first=first)
    return [film for film in films if not film.findings or "Cardiomegaly" in film.findings]


def _deal(
    rng: np.random.Generator, patients: int, sick: float, main: dict[str, float]
) -> list[_Person]:
    """Main findings, numbers of films and test places in their exact shares, so that none is
    missing by chance."""
    edges = np.cumsum(list(main.values())) / sum(main.values()) * sick * patients
    names = [*main, None]
    phase = int(rng.integers(0, 36))
    people = []
    for i in range(patients):
        kind = names[int(np.searchsorted(edges, i + 0.5))]
        turn = i + phase
        people.append(_Person(kind, FILMS[turn % len(FILMS)], turn % TEST_EVERY == 0))
    return [people[i] for i in rng.permutation(patients)]


def _films(rng: np.random.Generator, people: list[_Person], first: int) -> list[Film]:
    films = []
    for patient, person in enumerate(people, start=first):
        old = person.main in ELDERLY
        age = int(np.clip(rng.normal(63 if old else 47, 12 if old else 17), 18, 92))
        sex = "M" if rng.random() < 0.56 else "F"
        for number in range(person.films):
            findings = _findings(rng, person.main)
            portable = max([PORTABLE.get(name, 0.35) for name in findings], default=0.3)
            view = "AP" if rng.random() < portable else "PA"
            films.append(Film(patient, number, age + number // 2, sex, view, findings, person.test))
    return films


def _findings(rng: np.random.Generator, main: str | None) -> tuple[str, ...]:
    """The findings of one film: main finding mostly there, companions as they come."""
    found = set()
    if main and rng.random() < 0.9:
        found = {main} | {name for name, share in WITH[main].items() if rng.random() < share}
    elif rng.random() < 0.06:
        found = {str(rng.choice(["Infiltration", "Atelectasis", "Nodule", "Effusion"]))}
    return tuple(name for name in FINDINGS if name in found)
