"""In: the rows of a listing. Out: those of the views that are wanted; the others are counted by
name."""

from collections import Counter
from collections.abc import Sequence

from lib.datasets.layouts import Listing
from lib.exceptions import DatasetError

FRONTAL = ("PA", "AP", "FRONTAL")
"""FRONTAL: the set does not say which of the two it is."""
LATERAL = "LATERAL"
NOT_GIVEN = "not given"


def select_views(listing: Listing, views: str | Sequence[str], source: str) -> None:
    """Leaves in `listing` the rows of these views, and notes how many of which others there were.

    views: of `Config.views`. Listings that do not tell views hold frontal films; they are read
    whole unless views are named one by one. Raises DatasetError where no row is left.
    """
    if views == "all" or (views == "frontal" and not listing.tells_views):
        return
    wanted = FRONTAL if views == "frontal" else tuple(name.upper() for name in views)
    given = [(row.view or NOT_GIVEN).upper() for row in listing.rows]
    out = Counter(view for view in given if view not in wanted)
    kept = [row for row, view in zip(listing.rows, given, strict=True) if view in wanted]
    if not out:
        return
    counts = ", ".join(f"{view} {count:,}" for view, count in sorted(out.items()))
    asked = views if isinstance(views, str) else ", ".join(views)
    if not kept:
        raise DatasetError(
            f"{source}: no image is of the views {asked}; there are {counts}. Change views."
        )
    listing.rows = kept
    listing.notes.append(
        f"{sum(out.values()):,} images of other views were left out (views: {asked}): {counts}"
    )
