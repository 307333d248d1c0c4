"""In: a person, a view and the findings to show. Out: one synthetic chest film and the boxes of its
findings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage

from lib.config import FINDINGS
from lib.phantoms.anatomy import Anatomy, Array, build_chest, draw_vessels, noise, smooth
from lib.phantoms.fading import add_in_part, reshape_in_part
from lib.phantoms.film import Technique, choose_technique, expose, portable_technique
from lib.phantoms.signs import AIR

BOX_GRID = (
    1024  # boxes are given in the pixels of the NIH's 1024 px images, whatever the size drawn
)
UNBOXED = ("Emphysema",)
CHRONIC = (
    "Cardiomegaly",
    "Mass",
    "Nodule",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
_AP_RISE, _AP_HEART = 0.035, 1.10  # of the diaphragm, and the factor of the heart, in bed
Box = tuple[str, float, float, float, float]


def draw_phantom(
    findings: Sequence[str] = (),
    *,
    seed: int | Sequence[int] = 0,
    film: int = 0,
    age: int = 55,
    sex: str = "M",
    view: str = "PA",
    size: int = 256,
    strength: float | None = None,
) -> tuple[Array, list[Box]]:
    """One film: (size, size) uint8, and its boxes (finding, x, y, w, h) in pixels of a 1024 px
    grid.

    `seed` is the person: the same bones, vessels and lasting findings on every `film` of theirs.
    `strength` fixes how plain the signs are (0 to 1); None draws it, some subtle. Another `size`
    gives the same film, sharper or coarser. Raises ValueError for an unknown finding, sex or view,
    or a size below 16.
    """
    _check(findings, sex, view, size)
    plan = plan_film(seed=seed, film=film, age=age, sex=sex, view=view)
    signs = [
        Sign(name, _strength(plan.person, film, name) if strength is None else strength)
        for name in findings
    ]
    shadow, boxes = draw_shadow(plan, signs, size)
    return expose(shadow, plan.technique, size), boxes


@dataclass(frozen=True)
class Sign:
    """How one finding shows: `strength` (0 to 1) is how large and plain, `contrast` the share of it
    that is drawn: 0 is the chest without it. Another `variant` is the same finding elsewhere, where
    it has more than one place."""

    finding: str
    strength: float
    contrast: float = 1.0
    variant: int = 0


@dataclass(frozen=True)
class FilmPlan:
    """All that decides a film but its signs and its size: the healthy body, how it stands, and how
    the film is taken."""

    person: tuple[int, ...]
    film: int
    anatomy: Anatomy
    move: tuple[Array, Array, Array]
    technique: Technique


def plan_film(
    *,
    seed: int | Sequence[int] = 0,
    film: int = 0,
    age: int = 55,
    sex: str = "M",
    view: str = "PA",
) -> FilmPlan:
    """The plan of the film that `draw_phantom` draws with these parameters."""
    person = tuple(np.atleast_1d(seed).tolist())
    rng = np.random.default_rng([*person, film, 100])
    anatomy = _measure(person, rng, age, sex, view)
    move = _movement(rng, view)
    return FilmPlan(person, film, anatomy, move, choose_technique(rng, portable=view == "AP"))


def as_portable(plan: FilmPlan) -> FilmPlan:
    """The same person in bed: the diaphragm is higher, the heart's shadow larger, and the film has
    the grey levels and the scatter of a portable one. Movement, devices, marker and grain stay."""
    left, right = plan.anatomy.dome
    dome = (left - _AP_RISE, right - _AP_RISE)
    anatomy = replace(plan.anatomy, dome=dome, heart=plan.anatomy.heart * _AP_HEART)
    return replace(plan, anatomy=anatomy, technique=portable_technique(plan.technique))


def person_vessels(plan: FilmPlan, size: int) -> Array:
    """(size, size) float32 0..1: the vessels of a person, the same on all of their films."""
    return draw_vessels(np.random.default_rng([*plan.anatomy.seed, 1]), size)


def draw_shadow(
    plan: FilmPlan, signs: Sequence[Sign], size: int, vessels: Array | None = None
) -> tuple[Array, list[Box]]:
    """What reaches the film: attenuation (size, size) float32, and the boxes of `draw_phantom`.

    `vessels` are `person_vessels`, where they were drawn before.
    """
    person, film, anatomy = plan.person, plan.film, plan.anatomy
    for sign in signs:
        anatomy = reshape_in_part(
            anatomy, sign.finding, _sign_rng(person, film, sign), sign.strength, sign.contrast
        )
    chest = build_chest(anatomy, size, person_vessels(plan, size) if vessels is None else vessels)
    regions = {}
    for sign in sorted(signs, key=lambda one: FINDINGS.index(one.finding)):
        regions[sign.finding] = add_in_part(
            chest, sign.finding, _sign_rng(person, film, sign), sign.strength, sign.contrast
        )
    texture = _texture(np.random.default_rng([*person, 101]), size) * chest.lung * chest.markings
    shadow = chest.tissue + 0.34 * chest.heart * (0.3 + 0.7 * smooth(chest.height, -0.03, 0.005))
    shadow = (
        shadow - AIR * chest.air + 0.12 * chest.vessels * chest.markings + texture + chest.opacity
    )
    moved = _warp(shadow.astype(np.float32), plan.move, size)
    boxes = [
        box for name, region in regions.items() if (box := _box(name, region, plan.move, size))
    ]
    return moved, boxes


def _check(findings: Sequence[str], sex: str, view: str, size: int) -> None:
    unknown = [name for name in findings if name not in FINDINGS]
    if isinstance(findings, str) or unknown:
        raise ValueError(
            f"findings must be a list of names out of {', '.join(FINDINGS)}; got {findings!r}"
        )
    if sex not in ("M", "F") or view not in ("PA", "AP"):
        raise ValueError(
            f"sex must be 'M' or 'F' and view 'PA' or 'AP'; got sex={sex!r}, view={view!r}"
        )
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels; got {size}")


def _sign_rng(person: tuple[int, ...], film: int, sign: Sign) -> np.random.Generator:
    """Lasting findings look the same on all films of a person, passing ones differ from film to
    film."""
    when = 0 if sign.finding in CHRONIC else film + 1
    variant = [sign.variant] if sign.variant else []
    return np.random.default_rng([*person, when, 200 + FINDINGS.index(sign.finding), *variant])


def _strength(person: tuple[int, ...], film: int, finding: str) -> float:
    """Mostly between 0.2 and 1; about one in seventeen is nearly invisible, as labels read off
    reports can be."""
    rng = np.random.default_rng(
        [*person, 0 if finding in CHRONIC else film + 1, 300 + FINDINGS.index(finding)]
    )
    return 0.0 if rng.random() < 0.06 else float(np.clip(rng.beta(2.2, 1.6), 0.1, 1.0))


def _measure(
    person: tuple[int, ...], film_rng: np.random.Generator, age: int, sex: str, view: str
) -> Anatomy:
    """Measures of a person (from `person`) on one film (breath and view, from `film_rng`)."""
    rng = np.random.default_rng([*person, 102])
    male, older = sex == "M", float(np.clip((age - 20) / 70, 0, 1))
    fat = float(np.clip(rng.beta(2, 3), 0, 1))
    breath = film_rng.normal(0, 0.012) - (_AP_RISE if view == "AP" else 0.0)
    top = rng.normal(0.735, 0.018) + breath
    half_width = rng.normal(0.365 if male else 0.345, 0.012)
    heart = (
        half_width * rng.normal(0.40 + 0.03 * older, 0.022) * (_AP_HEART if view == "AP" else 1.0)
    )
    return Anatomy(
        half_width=half_width,
        apex=rng.normal(0.105, 0.012),
        dome=(top, top + rng.normal(0.022, 0.008)),
        dome_curve=rng.uniform(0.10, 0.15),
        heart=heart,
        heart_shift=rng.normal(0, 0.006),
        aorta=rng.normal(0.036 + 0.012 * older, 0.004),
        rib_spacing=rng.normal(0.079, 0.003),
        rib_density=rng.uniform(0.095, 0.135) * (1 - 0.3 * older) * (1.0 if male else 0.9),
        breast=0.08 * rng.random() if male else rng.uniform(0.35, 1.0),
        fat=fat,
        bubble=rng.uniform(0.018, 0.040) if rng.random() < 0.6 else 0.0,
        seed=(*person, 103),
    )


def _texture(rng: np.random.Generator, size: int) -> Array:
    """The fine mottle of healthy lung, attenuation units."""
    return (
        0.010 * noise(rng, 24, size) + 0.010 * noise(rng, 60, size) + 0.006 * noise(rng, 120, size)
    )


def _movement(rng: np.random.Generator, view: str) -> tuple[Array, Array, Array]:
    """How the person stands before the film: a 2x2 matrix, an offset and the bends of a smooth
    warp."""
    loose = 1.7 if view == "AP" else 1.0
    angle, scale = np.deg2rad(rng.normal(0, 1.4 * loose)), rng.normal(1.0, 0.025)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    matrix[1] *= rng.normal(1.0, 0.02)
    offset = rng.normal(0, 0.013 * loose, 2)
    return matrix, offset, rng.normal(0, 0.0045, (2, 5, 5)).astype(np.float32)


def _warp(layer: Array, move: tuple[Array, Array, Array], size: int) -> Array:
    """`layer` (S, S) as the film sees it (bilinear)."""
    matrix, offset, bends = move
    matrix, offset = matrix.astype(np.float32), offset.astype(np.float32)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    rows, cols = np.meshgrid(axis, axis, indexing="ij")
    bend = [
        np.asarray(Image.fromarray(b).resize((size, size), Image.Resampling.BICUBIC)) for b in bends
    ]
    from_rows = matrix[0, 0] * rows + matrix[0, 1] * cols + offset[0] + bend[0]
    from_cols = matrix[1, 0] * rows + matrix[1, 1] * cols + offset[1] + bend[1]
    where = np.stack([from_rows, from_cols]) * size + (size / 2 - 0.5)  # (2, S, S) pixels
    return ndimage.map_coordinates(layer, where, order=1, mode="nearest")


def _box(
    finding: str, region: Array | None, move: tuple[Array, Array, Array], size: int
) -> Box | None:
    """The box around what can be seen of `region`, on the 1024 px grid; None where nothing can."""
    if region is None or finding in UNBOXED:
        return None
    step = max(1, size // 128)  # 128 px are fine enough for a box, and quick
    region = region[step // 2 :: step, step // 2 :: step].astype(np.float32)
    coarse = len(region)
    seen = _warp(region, move, coarse) > 0.35 * max(float(region.max()), 0.05)
    rows, cols = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if len(rows) == 0:
        return None
    unit = BOX_GRID / coarse
    x, y = cols[0] * unit, rows[0] * unit
    return finding, x, y, (cols[-1] + 1) * unit - x, (rows[-1] + 1) * unit - y
