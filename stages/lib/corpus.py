"""What the rows that are kept are like as a whole: how long they are, and how little they repeat themselves."""

import zlib

import numpy as np
import pyarrow as pa

from stages.lib.words import Words, distinct, ngrams

_COMPRESSED = 10_000  # rows


def lengths(messages: pa.ChunkedArray) -> dict[str, dict[str, int]]:
    """Percentiles of the characters in what is asked (system text and earlier turns included) and in the answer."""
    import pyarrow.compute as pc  # takes .05 s, for which `stages.validate --check` need not wait

    turns = pc.list_value_length(messages).to_numpy()
    said = pc.utf8_length(pc.struct_field(pc.list_flatten(messages), "content")).to_numpy()
    ends = np.cumsum(turns)
    answered = said[ends - 1]
    asked = np.add.reduceat(said, ends - turns, dtype=np.int64) - answered
    return {
        name: {
            f"p{percent}": int(np.percentile(values, percent, method="inverted_cdf"))
            for percent in (5, 25, 50, 75, 95, 100)
        }
        for name, values in (("prompt", asked), ("answer", answered))
    }


def variety(kept: pa.Table, answers: Words) -> dict[str, float]:
    """How little the answers repeat themselves: distinct-n (Li et al. 2016, arXiv:1510.03055), and how far zlib gets.

    Answers that all say much the same compress well. The first `_COMPRESSED` rows stand for all.
    """
    found = {}
    for n in (1, 2, 3):
        runs = ngrams(answers, n)[1]
        if len(runs):
            found[f"distinct_{n}"] = round(len(distinct(runs)) / len(runs), 4)
    said = "\n".join(turns[-1]["content"] for turns in kept["messages"].slice(0, _COMPRESSED).to_pylist()).encode()
    return found | {"compression": round(len(said) / len(zlib.compress(said, 6)), 2)}
