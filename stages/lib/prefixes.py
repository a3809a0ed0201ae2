"""Documents of a batch that begin alike: what they share is computed once.

Rows of one task have a system text, the words of a chat template and often a long instruction in common. To a causal
model the states of such a beginning are the same in every document, so a batch is laid out as a tree: a token that
documents share stands there once, and each document attends to its own way from the root. Loss and gradients stay what
they are; the work falls by what is shared. (So does Prefix Grouper, arXiv:2506.05433, with many answers to one prompt.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.lib.labels import IGNORED

WORTH = 4  # tokens: a shorter beginning is not worth a segment of its own

Tokens = NDArray[np.int64]


class Document(NamedTuple):
    """One example: its tokens, as many labels, and how much its loss counts."""

    ids: Tokens
    labels: Tokens
    weight: float = 1.0

    @classmethod
    def untrained(cls, ids: Sequence[int]) -> "Document":
        """A text of which nothing is trained."""
        return cls(np.asarray(ids, dtype=np.int64), np.full(len(ids), IGNORED))


@dataclass(frozen=True)
class Segment:
    """A run of tokens, and the segments that come before it in its documents."""

    length: int
    before: tuple[int, ...] = ()  # their numbers, from the root on


@dataclass
class Layout:
    """Documents as one sequence without padding, each shared beginning once."""

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)  # a token's place in its documents
    weights: list[float] = field(default_factory=list)  # of labels
    segments: list[Segment] = field(default_factory=list)  # in the order of their tokens
    last: dict[int, int] = field(default_factory=dict)  # for each document, by its number, its last segment

    def ways(self) -> list[list[int]]:
        """For each document, in the order given, where its tokens stand."""
        starts = [0, *accumulate(segment.length for segment in self.segments)]
        return [
            [place for one in (*self.segments[last].before, last) for place in range(starts[one], starts[one + 1])]
            for _, last in sorted(self.last.items())
        ]


def lay_out(documents: Sequence[Document]) -> Layout:
    """Lay out documents, those that begin alike side by side.

    A trained token is never shared, nor the one before it, where each document has a target of its own. So a segment
    begins with an untrained token, and the target of any token is the label that follows it in the layout.
    """
    ordered = sorted(enumerate(documents), key=lambda one: (one[1].ids.tolist(), one[0]))
    shared = [_shared(one, other) for (_, one), (_, other) in pairwise(ordered)]
    layout = Layout()
    _place(layout, ordered, shared, 0, ())
    return layout


def _shared(one: Document, other: Document) -> int:
    """How many tokens two documents may share."""
    length = min(len(one.ids), len(other.ids)) - 1  # both go on
    differs = one.ids[:length] != other.ids[:length]
    # Where the next token is trained, this one has a target.
    differs |= (one.labels[1 : length + 1] != IGNORED) | (other.labels[1 : length + 1] != IGNORED)
    return int(differs.argmax()) if differs.any() else length


def _place(
    layout: Layout, documents: Sequence[tuple[int, Document]], shared: list[int], depth: int, before: tuple[int, ...]
) -> None:
    """Add numbered documents that have their first `depth` tokens in common, which stand in the segments `before`.

    Args:
        shared: how many tokens each document but the last shares with the next.
    """
    cuts = [place for place, tokens in enumerate(shared, start=1) if tokens < depth + WORTH]
    for first, last in pairwise([0, *cuts, len(documents)]):
        together, within = documents[first:last], shared[first : last - 1]
        name, document = together[0]
        stop = min(within, default=len(document.ids))
        layout.input_ids += document.ids[depth:stop].tolist()
        layout.labels += [IGNORED, *document.labels[depth + 1 : stop].tolist()]
        layout.position_ids += range(depth, stop)
        layout.weights += [document.weight] * (stop - depth)
        layout.segments.append(Segment(stop - depth, before))
        number = len(layout.segments) - 1
        if within:
            _place(layout, together, within, stop, (*before, number))
        else:
            layout.last[name] = number
