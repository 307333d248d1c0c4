"""The models that the page answers with: one, or two side by side.

In: the cards of exported models. Out: names, letters and the part that one had in the training of
the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.inference import TEACHERS, part_in, taught_by

STUDENT = "student"
Card = Mapping[str, Any]


@dataclass(frozen=True)
class Served:
    """A model on the page.

    - name: that of its file.
    - card: its card, under that name.
    - letter: A or B of two models, else empty.
    - role: student, or one of TEACHERS, where the cards say so, else empty.
    """

    name: str
    card: dict[str, Any]
    letter: str = ""
    role: str = ""

    @property
    def title(self) -> str:
        """Return name and role."""
        return f"{self.name} ({self.role})" if self.role else self.name


Two = tuple[Served, Served]


def side_by_side(cards: Mapping[str, dict[str, Any]]) -> tuple[Served, ...]:
    """Return one model, or two as A and B with their roles; `cards` are theirs by name."""
    found = [(name, card | {"name": name}) for name, card in cards.items()]
    if len(found) == 1:
        return (Served(*found[0]),)
    roles = both_roles(*cards.values())
    return tuple(
        Served(*one, letter, role) for one, letter, role in zip(found, "AB", roles, strict=True)
    )


def both_roles(first: Card, second: Card) -> tuple[str, str]:
    """Return what two models are to each other, by their cards; of each alone whether it had any
    teacher, where the other is none."""
    if part := part_in(second, first):
        return STUDENT, part
    if part := part_in(first, second):
        return part, STUDENT
    alone = [STUDENT if taught_by(card) else "" for card in (first, second)]
    return alone[0], alone[1]


def related(name: str, cards: Mapping[str, Card]) -> dict[str, str]:
    """Return the other models of `cards`, each with what it is to the model `name`.

    Teachers come first, the nearest before the others, then students, then the rest with an empty
    text, each by name.
    """
    parts = {other: part_in(card, cards[name]) for other, card in cards.items() if other != name}
    students = {other for other in parts if part_in(cards[name], cards[other])}
    words = {other: part or (STUDENT if other in students else "") for other, part in parts.items()}
    order = [*TEACHERS, STUDENT, ""]
    return dict(sorted(words.items(), key=lambda item: (order.index(item[1]), item[0])))
