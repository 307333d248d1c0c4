"""In: a person, a view and the findings to show. Out: one synthetic chest film and the boxes of its
findings."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from lib.config import FINDINGS
from lib.phantoms.anatomy import Anatomy, Array, build_chest, noise, smooth
from lib.phantoms.signs import AIR, add_sign, reshape

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
    person = tuple(np.atleast_1d(seed).tolist())
    rng = np.random.default_rng([*person, film, 100])
    plain = {
        name: _strength(person, film, name) if strength is None else strength for name in findings
    }
    anatomy = _measure(person, rng, age, sex, view)
    for name in plain:
        anatomy = reshape(anatomy, name, _sign_rng(person, film, name), plain[name])
    chest = build_chest(anatomy, size)
    regions = {}
    for name in sorted(plain, key=FINDINGS.index):
        regions[name] = add_sign(chest, name, _sign_rng(person, film, name), plain[name])
    texture = _texture(np.random.default_rng([*person, 101]), size) * chest.lung * chest.markings
    shadow = chest.tissue + 0.34 * chest.heart * (0.3 + 0.7 * smooth(chest.height, -0.03, 0.005))
    shadow = (
        shadow - AIR * chest.air + 0.12 * chest.vessels * chest.markings + texture + chest.opacity
    )
    move = _movement(rng, view)
    moved = _warp(shadow.astype(np.float32), move, size)
    boxes = [box for name, region in regions.items() if (box := _box(name, region, move, size))]
    return _expose(moved, rng, view, size), boxes


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


def _sign_rng(person: tuple[int, ...], film: int, finding: str) -> np.random.Generator:
    """Lasting findings look the same on all films of a person, passing ones differ from film to
    film."""
    return np.random.default_rng(
        [*person, 0 if finding in CHRONIC else film + 1, 200 + FINDINGS.index(finding)]
    )


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
    breath = film_rng.normal(0, 0.012) - (0.035 if view == "AP" else 0.0)
    top = rng.normal(0.735, 0.018) + breath
    half_width = rng.normal(0.365 if male else 0.345, 0.012)
    heart = half_width * rng.normal(0.40 + 0.03 * older, 0.022) * (1.10 if view == "AP" else 1.0)
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


def _expose(shadow: Array, rng: np.random.Generator, view: str, size: int) -> Array:
    """The film: exposure, scatter, grain, tubes and marker, collimation; (S, S) uint8."""
    portable = view == "AP"
    low = rng.normal(0.09, 0.025) - (0.05 if portable else 0.0)
    span = rng.normal(0.92, 0.06) * (1.12 if portable else 1.0)
    scatter = ndimage.gaussian_filter(shadow, 0.06 * size, truncate=2.5)
    shadow = shadow + (0.18 if portable else 0.08) * (scatter - shadow)
    shadow = shadow + _devices(rng, size, 0.75 if portable else 0.10)
    grey = np.clip((shadow - low) / span, 0, None)
    grey = 1 - np.exp(-1.65 * grey ** rng.normal(1.15, 0.08))
    blur = abs(rng.normal(0, 0.0009)) * size
    grey = ndimage.gaussian_filter(grey, blur) if blur > 0.2 else grey
    fine = np.random.default_rng(rng.integers(2**32))
    grey = grey + rng.uniform(0.006, 0.016) * fine.standard_normal(grey.shape, dtype=np.float32)
    grey = _frame(grey / 0.86, rng, size, portable)
    return (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)


def _devices(rng: np.random.Generator, size: int, share: float) -> Array:
    """Wires, electrodes and tubes: what patients in bed wear; attenuation units."""
    canvas = Image.new("L", (512, 512))
    pen = ImageDraw.Draw(canvas)
    t = np.linspace(0, 1, 40)
    if rng.random() < share:
        for _ in range(int(rng.integers(1, 4))):  # electrode and its wire
            x, y = rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.7)
            ex, bend = rng.uniform(-0.05, 1.05), rng.normal(0, 0.15)
            xs = x + (ex - x) * t + bend * np.sin(np.pi * t)
            ys = y + (1.02 - y) * t if rng.random() < 0.5 else y * (1 - t) - 0.02
            pen.line(
                [(float(a * 512), float(b * 512)) for a, b in zip(xs, ys, strict=True)],
                fill=110,
                width=2,
            )
            pen.ellipse((x * 512 - 6, y * 512 - 6, x * 512 + 6, y * 512 + 6), fill=150)
    if rng.random() < 0.6 * share:  # a tube down the middle, or a line from the neck
        sx, drift = rng.choice((0.5, 0.42, 0.57)), rng.normal(0, 0.02)
        xs = sx + (0.5 - sx) * t + drift * np.sin(3 * t)
        ys = rng.uniform(0.3, 0.9) * t
        pen.line(
            [(float(a * 512), float(b * 512)) for a, b in zip(xs, ys, strict=True)],
            fill=90,
            width=4,
        )
    if rng.random() < 0.03:  # pacemaker
        pen.rounded_rectangle((358, 120, 400, 158), 10, fill=255)
    layer = np.asarray(
        canvas.resize(
            (size, size), Image.Resampling.BOX if size < 512 else Image.Resampling.BICUBIC
        )
    )
    return layer.astype(np.float32) / 255 * 0.45


def _frame(grey: Array, rng: np.random.Generator, size: int, portable: bool) -> Array:
    """The letter L (the patient's left), and, sometimes, a collimated border."""
    edge = 0.06 * rng.random(4) * (rng.random(4) < (0.5 if portable else 0.2))
    top, bottom, left, right = (edge * size).astype(int)
    grey[:top], grey[size - bottom :] = 0.0, 0.0
    grey[:, :left], grey[:, size - right :] = 0.0, 0.0
    canvas = Image.new("L", (512, 512))
    pen = ImageDraw.Draw(canvas)
    x, y, tall = rng.uniform(450, 485), rng.uniform(28, 60), rng.uniform(16, 26)
    if rng.random() < 0.85:
        pen.line((x, y, x, y + tall, x + 0.6 * tall, y + tall), fill=255, width=4)
        if rng.random() < 0.3:
            pen.ellipse(
                (x - 0.6 * tall, y - 0.35 * tall, x + 1.1 * tall, y + 1.35 * tall),
                outline=255,
                width=3,
            )
    mark = np.asarray(
        canvas.resize(
            (size, size), Image.Resampling.BOX if size < 512 else Image.Resampling.BICUBIC
        )
    )
    return np.maximum(grey, mark.astype(np.float32) / 255)
