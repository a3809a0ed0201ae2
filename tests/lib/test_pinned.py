"""base.json names contents, and whatever is on disk is held against it, byte by byte."""

import dataclasses

import pytest

from stages.lib import artifacts, pinned
from stages.lib.errors import UserError
from tests import bases


@pytest.fixture
def base(tmp_path):
    bases.write_base(tmp_path / "base", bases.byte_level("<e>"), chat_template=bases.SMOL, eos="<e>")
    return tmp_path / "base"


def test_what_was_pinned_is_what_is_read_back(base):
    first = pinned.load_pinned(base)
    artifacts.write_json(base / pinned.MANIFEST, first.as_json())
    assert pinned.load_pinned(base) == first
    assert dataclasses.asdict(first) == first.as_json()


def flip(path):
    """Another content of the same size."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            flip,
            "tokenizer.json is not the file that base recorded: its content has changed. Put the old file back, or run",
        ),
        (lambda path: path.write_bytes(path.read_bytes() + b" "), "tokenizer.json is not the file that base recorded"),
        (
            lambda path: path.unlink(),
            "tokenizer.json is missing. Run `dvc repro -f base`",
        ),
    ],
)
def test_a_file_that_changed_is_named_with_the_way_out(base, change, sentence):
    change(base / "tokenizer.json")
    with pytest.raises(UserError) as caught:
        pinned.load_pinned(base)
    assert sentence in str(caught.value)


def test_without_a_pinned_base_the_stage_that_makes_one_is_named(tmp_path):
    with pytest.raises(UserError, match=r"base\.json is missing\. Run `dvc repro base` first"):
        pinned.load_pinned(tmp_path)


def test_the_bases_own_chat_template_is_read_if_there_is_one(tmp_path, base):
    assert pinned.load_pinned(base).chat_template(base) == bases.SMOL
    bare = bases.write_base(tmp_path / "bare", bases.byte_level("<e>"), eos="<e>")
    assert bare.chat_template(tmp_path / "bare") is None


def test_files_are_described_in_the_order_of_their_names(tmp_path):
    for name in "bca":
        (tmp_path / name).write_text(name, encoding="utf-8")
    described = pinned.describe(tmp_path, ["c", "a", "b"])
    assert list(described) == ["a", "b", "c"]
    assert described["a"] == pinned.PinnedFile(artifacts.sha256(tmp_path / "a"), 1)
