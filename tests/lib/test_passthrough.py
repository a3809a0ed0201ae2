"""What params.yaml hands on to TRL and peft, and what it does not."""

from dataclasses import fields

import pytest
from peft import LoraConfig
from trl import SFTConfig

from stages.lib import passthrough
from stages.lib.errors import UserError


def test_every_setting_that_is_refused_is_one_of_the_libraries() -> None:
    """A name that a library has dropped would be refused for a wrong reason."""
    known = {field.name for kind in (SFTConfig, LoraConfig) for field in fields(kind)}
    taken = [name for names in passthrough.TAKEN.values() for name in names]

    assert set(taken) <= known
    assert len(taken) == len(set(taken))


def test_what_is_handed_on_arrives() -> None:
    made = passthrough.configured(
        LoraConfig, {"r": 4}, {"rank_pattern": {"q_proj": 2}, "bias": "all"}, "train.lora.more"
    )

    assert (made.r, made.rank_pattern, made.bias) == (4, {"q_proj": 2}, "all")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("some", r"train\.lora\.more\.bias is 'some', and should be 'none', 'all' or 'lora_only'"),
        (None, r"train\.lora\.more\.bias is None"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_before_anything_is_loaded(value: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        passthrough.configured(LoraConfig, {}, {"bias": value}, "train.lora.more")
