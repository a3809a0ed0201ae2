"""Where the records of a table stand in the raw files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

FEW = 3  # places that a sentence names


@dataclass(frozen=True)
class Places:
    """The file and line of every record, by its number."""

    files: list[str]  # all there are
    file: NDArray[np.int64]  # of each row
    line: NDArray[np.int64]

    @classmethod
    def within(cls, records: pa.Table) -> "Places":
        """Where the records of a table stand."""
        sources = records["source"].combine_chunks().dictionary_encode()
        return cls(sources.dictionary.to_pylist(), sources.indices.to_numpy(), records["line"].to_numpy())

    def source(self, row: int) -> str:
        """`tickets.json`."""
        return self.files[self.file[row]]

    def of(self, row: int) -> str:
        """`tickets.json:214`."""
        return f"{self.source(row)}:{self.line[row]}"

    def few(self, rows: Sequence[int], but: int | None = None) -> str:
        """`tickets.json:214, orders.csv:3 and 12 more`: all but one, if one is named."""
        shown = [row for row in rows[: FEW + 1] if row != but][:FEW]
        more = len(rows) - (but is not None) - len(shown)
        return ", ".join(map(self.of, shown)) + (f" and {more:,} more" if more else "")
