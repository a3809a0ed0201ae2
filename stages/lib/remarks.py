"""What a person should look at among the rows that are kept: where, about what, and why."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.lib import detectors
from stages.lib.findings import BREAKS, CONSTRAINTS, findings_in
from stages.lib.places import Places
from stages.lib.records import SCHEMA, Record, from_table
from stages.lib.rejects import Code
from stages.lib.unsafe import Watch
from stages.params.validate import ValidateParams


def on_kept(
    places: Places,
    fit: pa.Table,
    is_kept: NDArray[np.bool_],
    conflicts: list[list[int]],
    varied: Mapping[int, tuple[str, str]],
    alike: list[list[int]],
    params: ValidateParams,
    watch: Watch,
) -> list[dict[str, Any]]:
    """What a person should look at among the rows that are kept: `about`, where, and why."""
    said: list[tuple[int, str, str]] = []
    for together in conflicts:
        stay = [row for row in together if is_kept[row]]
        for row in stay if len(stay) > 1 else []:
            verb = "answer" if len(stay) > 2 else "answers"
            said.append((row, "conflict", f"{places.few(stay, but=row)} {verb} the same question differently"))
    contested = {row for row, *_ in said}
    said += [(row, about, why) for row, (about, why) in varied.items() if row not in contested]
    for together in alike:
        others = places.few(together, but=together[0])
        said.append((together[0], "alike", f"but for a few words, question and answer are those of {others}"))
    is_marked = is_kept & _have_findings(fit["tags"])
    for row, record in zip(np.flatnonzero(is_marked).tolist(), _records(fit, is_marked), strict=True):
        said += [(row, code, why) for code, why in _marked(record, params, watch)]
    return [
        {"source": places.source(row), "line": int(places.line[row]), "about": about, "reason": why}
        for row, about, why in sorted(said)
    ]


def _have_findings(tags: pa.ChunkedArray) -> NDArray[np.bool_]:
    """For each row, whether a rule has tagged it; many rows have only tags of their own."""
    every = tags.combine_chunks()
    distinct = every.flatten().dictionary_encode()
    is_finding = np.array([any(findings_in([tag])) for tag in distinct.dictionary.to_pylist()], dtype=bool)
    have = np.zeros(len(every), dtype=bool)
    have[every.value_parent_indices().to_numpy()[is_finding[distinct.indices]]] = True
    return have


def _records(fit: pa.Table, chosen: NDArray[np.bool_]) -> Iterator[Record]:
    """The chosen records, some thousand at a time."""
    for batch in fit.select(SCHEMA.names).filter(pa.array(chosen)).to_batches(max_chunksize=4096):
        yield from from_table(pa.table(batch))


def _marked(record: Record, params: ValidateParams, watch: Watch) -> Iterator[tuple[str, str]]:
    """What the tags of a record say that a person should look at: code and reason."""
    found = list(findings_in(record.tags))
    if any(code == Code.UNSAFE for code, _ in found):
        yield from ((Code.UNSAFE, why) for why in watch.reasons(record))
    for code, kind in found:
        if code == Code.REFUSAL:
            yield code, "the answer refuses, as a chat program does"
        elif code == Code.PLACEHOLDER:
            yield code, "the input only says that there is none, and is not part of the question"
        elif code == CONSTRAINTS:
            yield code, f'the answer does not keep to "{kind.removeprefix(BREAKS)}" of the row\'s own constraints'
        elif kind in detectors.NAMES:
            action = params.secrets if code == Code.SECRET else params.personal_data
            what = f"what looks like {detectors.NAMES[kind]}"
            masked = f"{what} was replaced by {detectors.MASKS[kind]}; see whether the row still makes sense"
            yield code, masked if action == "redact" else f"the row holds {what}"
