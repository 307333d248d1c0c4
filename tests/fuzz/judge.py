"""In: a call of an entry point. Out: "worked" or "refused"; what is neither is a problem."""

from collections.abc import Callable
from typing import Any

from lib.exceptions import CxrError

WORKED, REFUSED = "worked", "refused"


class Problem(Exception):
    """What an entry point must not do; the text says what it did."""


def called(call: Callable[[], Any], *names: str) -> str:
    """Whether the call works, or is refused by a CxrError that names one of the files `names`.

    Any other exception is left as it is: the runner counts it as a problem.
    """
    try:
        call()
    except CxrError as error:
        check_named(str(error), *names)
        return REFUSED
    return WORKED


def check_named(text: str, *names: str) -> None:
    """Raise Problem where none of the names stands in the text of a refusal."""
    if not any(name in text for name in names):
        raise Problem(f"the refusal does not name {' or '.join(names)}: {text[:300]}")
