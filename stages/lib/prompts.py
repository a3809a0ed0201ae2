"""The prompt: one conversation as the text that a model reads, cut into what is trained and what is not."""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa


class Segment(NamedTuple):
    """A stretch of the rendered conversation; all of them in a row are the whole text."""

    text: str
    trained: bool  # the model learns to write it (an answer and what ends it)
    literal: bool  # a control token that somebody typed: to the model it is plain text


SEGMENT = pa.struct([("text", pa.string()), ("trained", pa.bool_()), ("literal", pa.bool_())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("category", pa.string()),
        ("group", pa.string()),
        ("segments", pa.list_(SEGMENT)),
        ("question", pa.string()),  # what is asked, for people: without the template's marks
        ("prompt", pa.string()),  # byte for byte what is sent to get the last answer
        ("reference", pa.string()),  # the last answer
        ("weight", pa.float64()),  # how much a trained token counts in the loss
        ("constraints", pa.string()),  # what the last answer has to keep to, as JSON; null where nothing
    ]
)


def answer_start(segments: Sequence[Segment]) -> int:
    """Index of the segment with which the last answer starts: what stands before it is the prompt."""
    start = len(segments)
    while start > 0 and segments[start - 1].trained:
        start -= 1
    return start
