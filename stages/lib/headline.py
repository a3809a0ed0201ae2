"""Which figure speaks first."""

from collections.abc import Iterable


def headline(exact_match: Iterable[float]) -> str:
    """The figure that tells most: exact match, or chrF where no answer is ever the reference (free text).

    Args:
        exact_match: of the models that are compared, row by row or over all.
    """
    return "exact_match" if any(exact_match) else "chrf"
