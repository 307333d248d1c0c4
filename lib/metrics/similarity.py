"""In: two networks' activations for the same images. Out: how alike they are, from 0 to 1."""

import numpy as np


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of x (N, P) and y (N, Q): rows are the same N examples.

    1 where one is the other rotated, mirrored and scaled, 0 where no column of one goes with a
    column of the other. Kornblith et al. (2019), "Similarity of Neural Network Representations
    Revisited", equation 4 and section 3: the columns are centred, then ||Y'X||^2 / (||X'X||
    ||Y'Y||) in Frobenius norms. With few examples and many columns unrelated activations score
    far above 0, so that a value wants its chance level beside it. NaN where x or y does not vary.
    Raises ValueError for other shapes, and where the examples are not as many.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"x and y must be (N, P) and (N, Q) of the same N; got {x.shape} and {y.shape}"
        )
    return alignment(unit_gram(x), unit_gram(y))


def unit_gram(x: np.ndarray) -> np.ndarray:
    """x (N, P) with centred columns, scaled so that ||X'X|| is 1: what `alignment` takes.

    In the precision of x. NaN where x does not vary.
    """
    x = np.asarray(x) if np.asarray(x).dtype.kind == "f" else np.asarray(x, dtype=float)
    centred = (x - x.mean(axis=0, dtype=np.float64)).astype(x.dtype)
    largest = np.abs(centred).max(initial=0.0)
    rounding = np.finfo(x.dtype).eps * np.abs(x).max(initial=0.0)  # what is left of a constant
    if largest <= 2 * rounding:
        return np.full_like(centred, np.nan)
    centred /= largest  # no square overflows
    return centred / np.sqrt(np.linalg.norm(centred.T @ centred))


def alignment(x: np.ndarray, y: np.ndarray) -> float:
    """`linear_cka` of what `unit_gram` made: one product instead of three, where each x meets
    several y."""
    return float(np.linalg.norm(y.T @ x) ** 2)
