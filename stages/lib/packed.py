"""Packed rows as training reads them: mapped into memory, with what has to be known of them beforehand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from stages.lib import artifacts
from stages.lib.errors import UserError
from stages.lib.labels import IGNORED


@dataclass(frozen=True)
class Packed:
    """The rows of one split."""

    rows: Dataset  # input_ids, labels, seq_lengths, weights
    lengths: NDArray[np.int64]  # tokens of each row
    trained: NDArray[np.int64]  # trained tokens of each
    weighted: bool  # whether the loss of some examples counts more or less than that of others
    document: float  # tokens of an example, on average

    def heaviest(self, count: int) -> list[dict[str, Any]]:
        """The longest rows; of equally long ones those with the most trained tokens."""
        order = np.lexsort((self.trained, self.lengths))[::-1]
        return list(self.rows.select(order[:count]).to_list())


def read(packed: Path, manifest: dict[str, Any], split: str) -> Packed | None:
    """The rows of a split; None when it is empty.

    Raises:
        UserError: when the file is not the one that tokenize wrote.
    """
    entry = manifest["splits"][split]
    path = packed / entry["file"]
    if not path.is_file() or artifacts.sha256(path) != entry["sha256"]:
        raise UserError(f"{path} is not the file that tokenize wrote. Run `dvc repro -f tokenize`.")
    if entry["rows"] == 0:
        return None
    rows = Dataset.from_file(str(path)).select_columns(["input_ids", "labels", "seq_lengths", "weights"])
    table = rows.with_format("arrow")[:]
    labels = table["labels"]
    trained = [
        np.bincount(pc.list_parent_indices(chunk), pc.not_equal(pc.list_flatten(chunk), IGNORED), len(chunk))
        for chunk in labels.chunks
    ]
    return Packed(
        rows=rows,
        lengths=pc.list_value_length(labels).to_numpy(),
        trained=np.concatenate(trained).astype(int),
        weighted=pc.any(pc.not_equal(pc.list_flatten(table["weights"]), 1.0)).as_py(),
        document=entry["tokens"] / entry["examples"],
    )
