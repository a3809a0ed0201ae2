"""Clusters of rows that repeat one another: a row, and all that were left out because they repeat it.

Rows go by their record's id: a JSON array may have all of its rows on one line, so a place does not tell them apart.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Clusters:
    """How many rows repeat each row that repeats no other."""

    sizes: Counter[str]  # by that row; it is not counted itself
    moved: Mapping[str, str]  # the row that a near-duplicate repeats

    @classmethod
    def of(cls, dropped: Iterable[tuple[str, str]]) -> "Clusters":
        """Put together what was dropped: each row and the one that it repeats, the same id where both say the same."""
        direct = Counter[str]()
        moved = {}
        for row, repeated in dropped:
            direct[repeated] += 1
            if row != repeated:
                moved[row] = repeated
        clusters = cls(Counter(), moved)
        for row, repeats in direct.items():
            clusters.sizes[clusters.head(row)] += repeats
        return clusters

    def head(self, row: str) -> str:
        """The row that the cluster of a row repeats: the copy of a near-duplicate belongs to what that one repeats."""
        while row in self.moved:
            row = self.moved[row]
        return row

    def figures(self) -> dict[str, int]:
        """The clusters, the rows that were dropped in them, and how many of these the largest has."""
        return {
            "clusters": len(self.sizes),
            "rows": self.sizes.total(),
            "largest": max(self.sizes.values(), default=0),
        }
