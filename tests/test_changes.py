"""What the harmful change of the demo does to rows. Training on them takes minutes, and is run by hand."""

from collections import Counter

import pyarrow as pa

from stages.lib import records
from stages.lib.records import Message, Record
from tools.changes import shuffle

ROWS = [
    Record("a.json", place, (Message("user", f"q{place}"), Message("assistant", f"a{place}")), category=f"c{place % 2}")
    for place in range(40)
]


def pairs(table: pa.Table) -> list[tuple[str, str, str]]:
    return [
        (row["category"], row["messages"][0]["content"], row["messages"][-1]["content"]) for row in table.to_pylist()
    ]


def test_answers_change_places_within_their_category_and_nothing_is_lost() -> None:
    before = records.to_table(ROWS)
    after = shuffle(before, seed=1)

    assert after.schema == before.schema
    assert [one[:2] for one in pairs(after)] == [one[:2] for one in pairs(before)]
    assert Counter((one[0], one[2]) for one in pairs(after)) == Counter((one[0], one[2]) for one in pairs(before))
    kept = sum(one == other for one, other in zip(pairs(before), pairs(after), strict=True))
    assert kept < 5
    assert pairs(shuffle(before, seed=1)) == pairs(after) != pairs(shuffle(before, seed=2))
