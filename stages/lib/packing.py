"""Packing: several examples share one row of tokens, whole and isolated from each other.

Own code, because TRL's packing needs torch and datasets (11 s to import) and cuts long rows at the limit.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
import xxhash

from stages.lib.tokens import Example

EXAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("weight", pa.float32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),  # IGNORED = not trained; not shifted
        ("seq_lengths", pa.list_(pa.int32())),  # tokens of each example in the row, in order
        ("weights", pa.list_(pa.float32())),  # how much a trained token of each counts in the loss
        ("example_ids", pa.list_(pa.string())),
    ]
)


def best_fit_decreasing(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Share out examples of `lengths` tokens among bins of `limit`; each bin lists the places of its examples.

    The longest example goes first, each into the fullest bin that still takes it (D. S. Johnson, "Near-optimal bin
    packing algorithms", 1973; for training text: arXiv:2404.10830). Bit s of `spaces` is set while some bin has s
    tokens left, so the best bin is the lowest set bit from the example's length on.
    """
    bins: list[list[int]] = []
    by_space: dict[int, list[int]] = {}
    spaces = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[place]
        if not 0 < length <= limit:
            raise ValueError(f"an example of {length} tokens does not fit into a bin of {limit}")
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            chosen = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
        else:
            space = limit
            chosen = len(bins)
            bins.append([])
        bins[chosen].append(place)
        by_space.setdefault(space - length, []).append(chosen)
        spaces |= 1 << (space - length)
    return bins


def shuffled(bins: Sequence[list[int]], ids: Sequence[str], seed: int) -> list[list[int]]:
    """Bins in the order of a hash of seed and first example, so that their order says nothing about their length."""

    def key(places: list[int]) -> tuple[int, str]:
        first = ids[places[0]]
        return xxhash.xxh3_64_intdigest(f"{seed}:{first}".encode()), first

    return sorted(bins, key=key)


def examples(ids: pa.Array, weights: pa.Array, encoded: Sequence[Example]) -> pa.RecordBatch:
    """Examples as Arrow keeps them, in 4 bytes a token: a list of Python takes 40."""
    tokens, labels = _lists([example.ids for example in encoded]), _lists([example.labels for example in encoded])
    return pa.record_batch([ids, tokens, labels, weights.cast(pa.float32())], schema=EXAMPLES)


def table(bins: Sequence[Sequence[int]], examples: pa.Table) -> pa.Table:
    """The packed rows, one a bin."""
    chosen = examples.take(pa.array(chain.from_iterable(bins), pa.int64()))
    ids, labels = (chosen[name].combine_chunks() for name in ("input_ids", "labels"))
    before = np.cumsum([0, *map(len, bins)], dtype=np.int32)  # examples that stand before each bin
    tokens_before = ids.offsets.take(before)
    columns = [
        pa.ListArray.from_arrays(tokens_before, ids.values),
        pa.ListArray.from_arrays(tokens_before, labels.values),
        pa.ListArray.from_arrays(before, ids.value_lengths()),
        pa.ListArray.from_arrays(before, chosen["weight"].combine_chunks()),
        pa.ListArray.from_arrays(before, chosen["id"].combine_chunks()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _lists(rows: Sequence[Sequence[int]]) -> pa.Array:
    """`list<int32>`, by way of numpy: faster than `pa.array` on millions of tokens."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    values = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(offsets, values)
