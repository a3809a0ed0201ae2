"""What both models are asked: test rows, rows that training has seen, and safety prompts."""

import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from stages.lib import artifacts, probes
from stages.lib.constraints import Constraints
from stages.lib.ending import Ending
from stages.lib.errors import UserError
from stages.lib.pinned import Pinned
from stages.lib.probes import Probe
from stages.lib.prompts import Segment
from stages.lib.tokens import Example, SegmentTokenizer
from stages.params.evaluate import EvaluateParams


@dataclass(frozen=True)
class Row:
    """One conversation; a model is judged by its last answer."""

    id: str
    category: str
    group: str
    question: str
    prompt: str
    reference: str
    constraints: Constraints  # on an answer
    example: Example
    text_tokens: int  # of the completion, without what ends it
    text_bytes: int  # UTF-8 bytes of these


@dataclass(frozen=True)
class Questions:
    """What both models are asked."""

    rows: list[Row]  # test rows, foreseen and answered
    known: dict[str, list[Row]]  # rows that training has seen, by split: foreseen only
    left_out: dict[str, int]  # test rows that are not judged, by reason
    probes: list[Probe]  # of safety: answered only
    probe_ids: list[list[int]]  # their prompts, as tokens


def read(
    prompts: Path,
    dropped: Container[str],
    harm: Path,
    pinned: Pinned,
    tokenizer: SegmentTokenizer,
    ending: Ending,
    params: EvaluateParams,
    seed: int,
) -> Questions:
    """The test rows that are judged, the rows of other splits whose loss is set beside theirs, and safety prompts.

    `dropped` rows were never trained on: they were too long for it.
    """
    context = pinned.context
    test = _rows_of(prompts, "test")
    if not test:
        raise UserError(
            f"{prompts}/test.parquet holds no rows to judge. Raise split.test in params.yaml, or add data to data/raw/."
        )
    chosen = _drawn(test, params.rows, seed)
    rows = _that_fit(chosen, tokenizer, ending, context, params.max_new_tokens)
    if not rows:
        raise UserError(
            f"{prompts}/test.parquet: no row of {len(chosen):,} leaves room for an answer of "
            f"{params.max_new_tokens} tokens in the {context:,} that the model reads. Lower evaluate.max_new_tokens in "
            "params.yaml, or shorten the data."
        )
    known = {}
    for split in ("train", "validation"):
        table = [row for row in _rows_of(prompts, split) if row["id"] not in dropped]
        known[split] = _that_fit(_drawn(table, params.known_rows, seed), tokenizer, ending, context, 0)
    asked = probes.read(harm) if params.safety.ask else []
    ids = probes.prompts(asked, prompts / "template.json", pinned, tokenizer, params.safety.max_new_tokens)
    left_out = {"limit": len(test) - len(chosen), "too_long": len(chosen) - len(rows)}
    return Questions(rows, known, left_out, asked, ids)


def _drawn(table: list[dict[str, Any]], limit: int | None, seed: int) -> list[dict[str, Any]]:
    """At most `limit` rows, in the order of the table, drawn by a hash of seed and id.

    A row added to the data moves no other in or out but the one whose place it takes.
    """
    by_hash = sorted(table, key=lambda row: (xxhash.xxh3_64_intdigest(f"{seed}:{row['id']}".encode()), row["id"]))
    drawn = {row["id"] for row in by_hash[:limit]}
    return [row for row in table if row["id"] in drawn]


def _that_fit(
    table: list[dict[str, Any]], tokenizer: SegmentTokenizer, ending: Ending, context: int, new_tokens: int
) -> list[Row]:
    """Rows that the model can read, with an answer of so many tokens."""
    examples = tokenizer.encode([[Segment(**one) for one in row["segments"]] for row in table])
    return [
        _row(one, example, ending)
        for one, example in zip(table, examples, strict=True)
        if len(example.prompt) + max(len(example.completion), new_tokens) <= context
    ]


def _row(row: Mapping[str, Any], example: Example, ending: Ending) -> Row:
    text = ending.without_end(example.completion)
    return Row(
        id=row["id"],
        category=row["category"],
        group=row["group"],
        question=row["question"],
        prompt=row["prompt"],
        reference=row["reference"],
        constraints=json.loads(row["constraints"] or "{}"),
        example=example,
        text_tokens=len(text),
        text_bytes=len(ending.decode(text).encode()),
    )


def dropped_rows(rejected: Path) -> set[str]:
    """Ids of rows that tokenize left out of training, or of its judgements: data/packed/rejected.jsonl."""
    return {json.loads(line)["record"]["id"] for line in rejected.read_text(encoding="utf-8").splitlines()}


def trained_texts(prompts: Path, dropped: Container[str]) -> Iterator[str]:
    """Every answer that training had the model learn."""
    for row in _rows_of(prompts, "train"):
        if row["id"] not in dropped:
            yield from (one["text"] for one in row["segments"] if one["trained"])


def _rows_of(prompts: Path, split: str) -> list[dict[str, Any]]:
    return artifacts.read_parquet(prompts / f"{split}.parquet", made_by="format").to_pylist()
