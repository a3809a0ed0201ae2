"""Which records stand in another split than when split last ran here, and why.

What is remembered for that is no output: it depends on what ran here before, and two clones must come to the same
files. Where nothing is remembered, as in a fresh clone or a queued experiment, nothing is said.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

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
    was = dict(zip(before["id"].to_pylist(), before["split"].to_pylist(), strict=True))
    moved = [
        row
        for row, (name, split) in enumerate(zip(placed["id"].to_pylist(), placed["split"].to_pylist(), strict=True))
        if was.get(name, split) != split
    ]
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    for name, split, why in _with_causes(before, placed, moved, settings) if moved else ():
        counts[was[name], split, why] += 1
    return [
        f"{count:,} {'row' if count == 1 else 'rows'} went from {old} to {new} since the last run here: {why}."
        for (old, new, why), count in sorted(counts.items())
    ]


def _with_causes(
    before: pa.Table, placed: pa.Table, moved: list[int], settings: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """The id, the split and the cause of each row that moved."""
    said = before.schema.metadata or {}
    changed = [key for key, value in settings.items() if said.get(key.encode()) != json.dumps(value).encode()]
    old_groups = dict(zip(before["id"].to_pylist(), before["group"].to_pylist(), strict=True))
    new = defaultdict(list)
    for row in placed.to_pylist():
        if row["id"] not in old_groups:
            new[row["group"]].append(row["place"])
    left = {old_groups[name] for name in old_groups.keys() - set(placed["id"].to_pylist())}
    for row in placed.take(moved).to_pylist():
        group, old_group = row["group"], old_groups[row["id"]]
        if changed:
            why = f"{' and '.join(changed)} changed"
        elif group in new:
            why = f"new rows are like them ({_listed(new[group])})"
        elif old_group in left:
            why = "rows like them are gone"
        elif group != old_group:
            why = "groups of more than a tenth of a category are broken up, and theirs has another share of it now"
        else:
            why = "no split may be empty"
        yield row["id"], row["split"], why


def _listed(places: list[str]) -> str:
    more = [f"{len(places) - _SHOWN:,} more"] if len(places) > _SHOWN else []
    return ", ".join(places[:_SHOWN] + more)
