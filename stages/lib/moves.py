"""Which records stand in another split than when split last ran here, and why.

What is remembered for that is no output: it depends on what ran here before, and two clones must come to the same
files. Where nothing is remembered, as in a fresh clone or a queued experiment, nothing is said.
"""

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.lib import artifacts
from stages.lib.errors import UserError, warn

_FILE = "placed.parquet"
_KEPT = pa.schema([(name, pa.string()) for name in ("id", "group", "split")])
_SHOWN = 3  # new rows that a sentence names
_JOINED = "new rows are like them"


def remember(folder: Path, placed: pa.Table, settings: Mapping[str, Any]) -> None:
    """Keep the group and the split of each record, and the params that had a say in it.

    Where that cannot be written, the stage goes on: its outputs are whole without it.
    """
    said = {key: json.dumps(value) for key, value in settings.items()}
    try:
        with artifacts.replacing(folder) as out:
            artifacts.write_parquet(out / _FILE, placed.select(_KEPT.names).replace_schema_metadata(said))
    except OSError as error:
        warn(f"{folder} cannot be written ({error.strerror or error}): the next run cannot tell which rows moved.")


def remembered(folder: Path) -> pa.Table | None:
    """What `remember` kept, if it is still there, whole, and ours to read."""
    try:
        table = artifacts.read_parquet(folder / _FILE, "split")
    except (UserError, OSError):
        return None
    return table if table.schema.equals(_KEPT) else None


def told(before: pa.Table, placed: pa.Table, settings: Mapping[str, Any]) -> list[str]:
    """A sentence for each way that records have gone and each cause: few, however many records went.

    Args:
        before: what `remembered` gives.
        placed: for each record `id`, `place` (`tickets.json:214`), `group` and `split`.
        settings: the params that have a say in it, by key.
    """
    there = pc.index_in(placed["id"], before["id"].combine_chunks())  # null where a record is new
    for name in ("group", "split"):
        placed = placed.append_column(f"old_{name}", before[name].take(there))
    moved = placed.filter(pc.not_equal(placed["old_split"], placed["split"]))
    new = _new_rows(placed)
    causes = _causes(before, placed, moved, new, settings) if len(moved) else ()
    ways = defaultdict[tuple[str, str, str], list[str]](list)  # the groups of the rows that went so
    columns = (moved[name].to_pylist() for name in ("old_split", "split", "group"))
    for old, now, group, why in zip(*columns, causes, strict=True):
        ways[old, now, why].append(group)
    return [
        f"{len(groups):,} {'row' if len(groups) == 1 else 'rows'} went from {old} to {now} since the last run here: "
        f"{why}{_named(new, groups) if why == _JOINED else ''}."
        for (old, now, why), groups in sorted(ways.items())
    ]


def _new_rows(placed: pa.Table) -> dict[str, list[str]]:
    """The places of the rows that were not there before, by group."""
    new = defaultdict(list)
    for row in placed.filter(pc.is_null(placed["old_group"])).select(["group", "place"]).to_pylist():
        new[row["group"]].append(row["place"])
    return dict(new)


def _causes(
    before: pa.Table, placed: pa.Table, moved: pa.Table, new: Container[str], settings: Mapping[str, Any]
) -> Iterator[str]:
    """Why each of the rows moved; `new` are the groups that new rows joined."""
    said = before.schema.metadata or {}
    changed = [key for key, value in settings.items() if said.get(key.encode()) != json.dumps(value).encode()]
    is_gone = pc.invert(pc.is_in(before["id"], placed["id"].combine_chunks()))
    left = set(before["group"].filter(is_gone).to_pylist())
    for group, old_group in zip(moved["group"].to_pylist(), moved["old_group"].to_pylist(), strict=True):
        if changed:
            yield f"{' and '.join(changed)} changed"
        elif group in new:
            yield _JOINED
        elif old_group in left:
            yield "rows like them are gone"
        elif group != old_group:
            yield "what many rows share is nobody's own, and with the rows around it their group has changed"
        else:
            yield "no split may be empty"


def _named(new: Mapping[str, list[str]], groups: Iterable[str]) -> str:
    """The new rows of some groups: the first few, and how many more."""
    places = [place for group in dict.fromkeys(groups) for place in new[group]]
    more = [f"{len(places) - _SHOWN:,} more"] if len(places) > _SHOWN else []
    return f" ({', '.join(places[:_SHOWN] + more)})"
