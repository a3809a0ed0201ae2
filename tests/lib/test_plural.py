"""Numbers of things in sentences."""

import pytest

from stages.lib.plural import agree, counted


@pytest.mark.parametrize(("number", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1204, "1,204 rows")])
def test_only_one_is_no_plural(number, said):
    assert counted(number, "row") == said
    assert agree(number, "is", "are") == ("is" if number == 1 else "are")
