"""Test rows for people to look at: from every category, and nobody picks the good ones."""

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def turn_by_turn(items: Iterable[T], category: Callable[[T], str], chance: Callable[[T], int], number: int) -> list[T]:
    """So many items, one of each category, then a second one of each, and so on; in a category by `chance`, a hash.

    They stand in the order of the turns: a shorter draw is the beginning of a longer one.
    """
    by_category: dict[str, list[T]] = {}
    for item in sorted(items, key=chance):
        by_category.setdefault(category(item), []).append(item)
    turns = [(turn, item) for members in by_category.values() for turn, item in enumerate(members)]
    return [item for _, item in sorted(turns, key=lambda one: one[0])[:number]]
