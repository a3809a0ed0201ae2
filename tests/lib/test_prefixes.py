"""Documents that begin alike: each token once, each document whole."""

import random
from itertools import accumulate

import numpy as np
import pytest

from stages.lib.labels import IGNORED
from stages.lib.prefixes import WORTH, Document, lay_out


def document(ids, prompt):
    """The first `prompt` tokens are not trained."""
    ids = np.array(ids, dtype=np.int64)
    return Document(ids, np.where(np.arange(len(ids)) < prompt, IGNORED, ids))


def documents_in(layout):
    """Ids and targets of each document, put together again along its way from the root."""
    parents = {number for segment in layout.segments for number in segment.before}
    starts = [0, *accumulate(segment.length for segment in layout.segments)]
    found = []
    for number, segment in enumerate(layout.segments):
        if number in parents:
            continue
        places = [place for one in (*segment.before, number) for place in range(starts[one], starts[one + 1])]
        assert [layout.position_ids[place] for place in places] == list(range(len(places)))
        targets = [*layout.labels[1:], IGNORED]
        found.append(([layout.input_ids[place] for place in places], [targets[place] for place in places]))
    return sorted(found)


def as_given(documents):
    return sorted((one.ids.tolist(), [*one.labels[1:].tolist(), IGNORED]) for one in documents)


def drawn(rng, count):
    """Documents out of a few beginnings, some of which begin alike."""
    beginnings = [
        [1, 2, 3, 4, 5, 6, 7][: rng.randint(2, 7)] + rng.choices(range(8, 11), k=rng.randint(0, 9)) for _ in range(4)
    ]
    made = []
    for _ in range(count):
        ids = rng.choice(beginnings) + rng.choices(range(8, 11), k=rng.randint(1, 9))
        made.append(document(ids, rng.randint(0, len(ids))))
    return made


@pytest.mark.parametrize("seed", range(200))
def test_every_document_can_be_read_off_with_all_its_targets(seed):
    rng = random.Random(seed)
    documents = drawn(rng, rng.randint(1, 12))
    layout = lay_out(documents)
    assert documents_in(layout) == as_given(documents)
    tokens = sum(segment.length for segment in layout.segments)
    assert tokens == len(layout.input_ids) == len(layout.labels) == len(layout.position_ids)


def test_what_documents_share_stands_once():
    task, ways = list(range(20)), [[30, 31, 32, 33, 40], [30, 31, 32, 33, 41], [50, 51]]
    layout = lay_out([document(task + way, len(task + way)) for way in ways])
    assert sorted(layout.input_ids) == sorted([*task, 30, 31, 32, 33, 40, 41, 50, 51])
    assert [len(segment.before) for segment in layout.segments] == [0, 1, 2, 2, 1]


@pytest.mark.parametrize(("alike", "tokens"), [(WORTH - 1, 2 * (WORTH + 1)), (WORTH, WORTH + 4)])
def test_a_short_beginning_is_not_shared(alike, tokens):
    one, other = (document([*range(alike), *range(first, first + 2)], alike + 2) for first in (50, 60))
    assert len(lay_out([one, other]).input_ids) == tokens


def test_one_question_with_two_answers_has_two_targets_for_its_end():
    question = list(range(10))
    layout = lay_out([document([*question, 21], 10), document([*question, 22], 10)])
    assert len(layout.input_ids) == 9 + 2 + 2
    assert layout.labels.count(21) == layout.labels.count(22) == 1


def test_the_same_document_twice_counts_twice():
    twice = [document([*range(10), 21], 10)] * 2
    assert documents_in(lay_out(twice)) == as_given(twice)


def test_a_document_of_one_token_has_no_target():
    layout = lay_out([document([5], 0)])
    assert (layout.input_ids, layout.labels, layout.position_ids) == ([5], [IGNORED], [0])


def test_each_document_is_found_by_its_number():
    documents = drawn(random.Random(7), 9)
    layout = lay_out(documents)
    assert [[layout.input_ids[place] for place in way] for way in layout.ways()] == [
        one.ids.tolist() for one in documents
    ]
