"""A file inside an installed package is found without running the package, and only as it was installed."""

import sys

import pytest

from stages.lib import packages
from stages.lib.errors import UserError
from tests import on_disk

ASKED_BY = "params.yaml: base.name"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """`carrier/model.gguf`, in an environment of its own."""
    (tmp_path / "model.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return on_disk.install(tmp_path / "site", "carrier", tmp_path / "model.gguf")


def test_the_file_is_found_and_the_package_not_imported(installed):
    assert packages.find_file("carrier/model.gguf", ASKED_BY) == installed
    assert "carrier" not in sys.modules


def test_a_file_that_is_not_as_it_was_installed_is_refused(installed):
    installed.write_bytes(b"weightz")
    with pytest.raises(UserError, match=r"model\.gguf is not the file that the package carrier was installed with"):
        packages.find_file("carrier/model.gguf", ASKED_BY)


def test_a_file_that_the_record_does_not_know_cannot_be_compared(installed):
    """The stage pins its content all the same."""
    other = installed.with_name("other.gguf")
    other.write_bytes(b"put there by hand")
    assert packages.find_file("carrier/other.gguf", ASKED_BY) == other


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("carrier/absent.gguf", "carrier holds no file 'absent.gguf'. Correct the name"),
        ("carrier", "carrier holds no file ''"),
        ("carrier/", "carrier holds no file ''"),
        ("absent/model.gguf", "no package absent is installed. Run `make setup`"),
        ("zipfile/model.gguf", "no package zipfile is installed"),  # a module, not a package
        ("not-a-name/model.gguf", "no package not-a-name is installed"),
        ("../model.gguf", "no package .. is installed"),
        ("", "no package  is installed"),
    ],
)
def test_what_is_not_there_is_named_with_the_param_that_asked(installed, place, sentence):
    with pytest.raises(UserError) as caught:
        packages.find_file(place, ASKED_BY)
    assert str(caught.value).startswith(f"{ASKED_BY} is 'package:{place}', but ")
    assert sentence in str(caught.value)
