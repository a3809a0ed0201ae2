"""Queued experiments: nothing stays behind unnoticed."""

from stages.lib import experiments, sources


def test_every_kind_of_file_that_can_be_read_is_missed_when_it_stays_behind():
    assert set(experiments.DATA) == set(sources.ENDINGS.split(", "))
