"""Which records stand in another split than when split last ran here, and why.

What is remembered for that is no output: it depends on what ran here before, and two clones must come to the same
files. Where nothing is remembered, as in a fresh clone or a queued experiment, nothing is said.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.lib import artifacts
from stages.lib.errors import UserError

_FILE = "placed.parquet"
_KEPT = pa.schema([(name, pa.string()) for name in ("id", "group", "split")])
_SHOWN = 3  # new rows that a sentence names


def remember(folder: Path, placed: pa.Table, settings: Mapping[str, Any]) -> None:
    """Keep the group and the split of each record, and the params that had a say in it."""
    said = {key: json.dumps(value) for key, value in settings.items()}
    with artifacts.replacing(folder) as out:
        artifacts.write_parquet(out / _FILE, placed.select(_KEPT.names).replace_schema_metadata(said))


def remembered(folder: Path) -> pa.Table | None:
    """What `remember` kept, if it is still there and whole."""
    try:
        table = artifacts.read_parquet(folder / _FILE, "split")
    except UserError:
        return None
    return table if table.schema.equals(_KEPT) else None


def told(before: pa.Table, placed: pa.Table, settings: Mapping[str, Any]) -> list[str]:
    """A sentence for each way that records have gone, and each cause.

    Args:
        before: what `remembered` gives.
        placed: for each record `id`, `place` (`tickets.json:214`), `group` and `split`.
        settings: the params that have a say in it, by key.
    """
    there = pc.index_in(placed["id"], before["id"].combine_chunks())  # null where a record is new
    for name in ("group", "split"):
        placed = placed.append_column(f"old_{name}", before[name].take(there))
    moved = placed.filter(pc.not_equal(placed["old_split"], placed["split"]))
    causes = _causes(before, placed, moved, settings) if len(moved) else ()
    ways = Counter(zip(moved["old_split"].to_pylist(), moved["split"].to_pylist(), causes, strict=True))
    return [
        f"{count:,} {'row' if count == 1 else 'rows'} went from {old} to {new} since the last run here: {why}."
        for (old, new, why), count in sorted(ways.items())
    ]


def _causes(before: pa.Table, placed: pa.Table, moved: pa.Table, settings: Mapping[str, Any]) -> Iterator[str]:
    """Why each of the rows moved."""
    said = before.schema.metadata or {}
    changed = [key for key, value in settings.items() if said.get(key.encode()) != json.dumps(value).encode()]
    new = defaultdict(list)
    for row in placed.filter(pc.is_null(placed["old_group"])).select(["group", "place"]).to_pylist():
        new[row["group"]].append(row["place"])
    is_gone = pc.invert(pc.is_in(before["id"], placed["id"].combine_chunks()))
    left = set(before["group"].filter(is_gone).to_pylist())
    for group, old_group in zip(moved["group"].to_pylist(), moved["old_group"].to_pylist(), strict=True):
        if changed:
            yield f"{' and '.join(changed)} changed"
        elif group in new:
            yield f"new rows are like them ({_listed(new[group])})"
        elif old_group in left:
            yield "rows like them are gone"
        elif group != old_group:
            yield "groups of more than a tenth of a category are broken up, and theirs has another share of it now"
        else:
            yield "no split may be empty"


def _listed(places: list[str]) -> str:
    more = [f"{len(places) - _SHOWN:,} more"] if len(places) > _SHOWN else []
    return ", ".join(places[:_SHOWN] + more)
