"""params.yaml is read strictly: every mistake is one sentence with key, value and what is allowed, before any work."""

import re
from pathlib import Path

import pytest

from stages.lib import params
from stages.lib.errors import UserError
from stages.params.base import BaseParams
from stages.params.train import TrainParams

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
NUMBER = "a number above 0 up to 1 is allowed."
TRAIN_KEYS = ", ".join(TrainParams.model_fields)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write params.yaml into a folder of its own and go there; `lr="2"` sets the first key `lr`, wherever it stands."""
    monkeypatch.chdir(tmp_path)

    def write(text=TEXT, **values):
        for key, value in values.items():
            text, count = re.subn(rf"^(\s*{key}:) .*$", lambda found: f"{found[1]} {value}", text, count=1, flags=re.M)  # noqa: B023
            assert count == 1, key
        params.PARAMS.write_text(text, encoding="utf-8")

    return write


def refusal(section=TrainParams):
    with pytest.raises(UserError) as caught:
        params.load(section)
    return str(caught.value)


def test_the_file_of_this_repository_is_right_and_earns_no_warning(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for section in params.sections().values():
        params.load(section)
    assert params.load_seed() >= 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-05", 5e-5),
        ("1e-4", 1e-4),
        ('"1e-4"', 1e-4),
        ("'5E-5'", 5e-5),
        ("0.0002", 2e-4),
        ("5.0e-4", 5e-4),
        ("1", 1.0),
    ],
)
def test_a_number_is_a_number_however_it_is_written(written, text, value):
    """Field fault 1: `dvc exp run -S train.lr=5e-5` writes 5e-05, which other readers take for text."""
    written(lr=text)
    lr = params.load(TrainParams).lr
    assert (lr, type(lr)) == (value, float)


@pytest.mark.parametrize("text", ["4", "4.0", '"4"', "4e0"])
def test_a_whole_number_is_whole_however_it_is_written(written, text):
    written(accumulation=text)
    accumulation = params.load(TrainParams).accumulation
    assert (accumulation, type(accumulation)) == (4, int)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        # numbers; field fault 1
        ({"lr": "fast"}, f'train.lr is "fast"; {NUMBER}'),
        ({"lr": "true"}, f"train.lr is true; {NUMBER}"),
        ({"lr": "null"}, f"train.lr is null; {NUMBER}"),
        ({"lr": "2"}, f"train.lr is 2; {NUMBER}"),
        ({"lr": "0"}, f"train.lr is 0; {NUMBER}"),
        ({"lr": ".nan"}, f"train.lr is NaN; {NUMBER}"),
        ({"lr": '"nan"'}, f'train.lr is "nan"; {NUMBER}'),
        ({"lr": "1e400"}, f"train.lr is Infinity; {NUMBER}"),
        ({"lr": "[1e-4]"}, f"train.lr is [0.0001]; {NUMBER}"),
        ({"lr": "2024-01-01"}, f'train.lr is "2024-01-01"; {NUMBER}'),
        ({"epochs": "0"}, "train.epochs is 0; a number above 0 up to 10000 is allowed."),
        ({"warmup": "10%"}, 'train.warmup is "10%"; a number from 0 up to 1 is allowed.'),
        ({"dropout": "1"}, "train.lora.dropout is 1; a number from 0 below 1 is allowed."),
        # whole numbers
        ({"accumulation": "2.5"}, "train.accumulation is 2.5; a whole number from 1 is allowed."),
        ({"accumulation": "0"}, "train.accumulation is 0; a whole number from 1 is allowed."),
        ({"max_steps": "none"}, 'train.max_steps is "none"; a whole number from 1 or null is allowed.'),
        ({"r": "-4"}, "train.lora.r is -4; a whole number from 1 is allowed."),
        ({"accumulation": ".inf"}, "train.accumulation is Infinity; a whole number from 1 is allowed."),
        # choices, truth, text
        ({"method": "lorra"}, 'train.method is "lorra"; one of lora, qlora, full is allowed.'),
        ({"gradient_checkpointing": "yes"}, 'train.gradient_checkpointing is "yes"; true or false or auto is allowed.'),
        ({"pack": "1"}, "tokenize.pack is 1; true or false is allowed."),
        ({"template": "null"}, "format.template is null; text is allowed."),
        ({"system": "1"}, "format.system is 1; text or null is allowed."),
        ({"target_modules": "3"}, "train.lora.target_modules is 3; text or a list of texts is allowed."),
        ({"target_modules": "[q, 3]"}, 'train.lora.target_modules is ["q", 3]; text or a list of texts is allowed.'),
        ({"name": '""'}, 'base.name is ""; a hub id, a folder, a .gguf file or package:MODULE/FILE.gguf is needed.'),
        ({"target_modules": "[]"}, "train.lora.target_modules is []; name at least one module, or write all-linear."),
        (
            {"target_modules": '"["'},
            'train.lora.target_modules is "["; [ is no regular expression.',
        ),
        ({"columns": "{instruction: 3}"}, "validate.columns.instruction is 3; text is allowed."),
        ({"columns": "[]"}, "validate.columns is []; a block of keys is allowed here."),
        # the seed
        ({"seed": "seven"}, 'seed is "seven"; a whole number from 0 to 4294967295 is allowed.'),
        ({"seed": "-1"}, "seed is -1; a whole number from 0 to 4294967295 is allowed."),
        ({"seed": "true"}, "seed is true; a whole number from 0 to 4294967295 is allowed."),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_can(written, change, sentence):
    written(**change)
    assert refusal() == f"params.yaml: {sentence}"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("  lr:", "  lrr:", "train.lrr is not a known key; did you mean lr?"),
        ("  max_length:", "  maxlength:", "tokenize.maxlength is not a known key; did you mean max_length?"),
        ("    alpha:", "    alhpa:", "train.lora.alhpa is not a known key; did you mean alpha?"),
        ("train:\n", "trian:\n", "trian is not a known key; did you mean train?"),
        ("seed:", "sede:", "sede is not a known key; did you mean seed?"),
        (" at_most:", " at_msot:", "merge.gates.2.at_msot is not a known key; did you mean at_most?"),
        ("  lr:", "  zzz: 1\n  lr:", f"train.zzz is not a known key; known here are {TRAIN_KEYS}."),
        ("seed:", "1: x\nseed:", "1 is not a known key; known here are seed, base, evaluate, format, merge, report, "
         "split, tokenize, train, validate."),
    ],
)  # fmt: skip
def test_a_key_that_is_not_known_is_named_with_the_one_that_was_meant(written, old, new, sentence):
    """And the key that it was meant to be is not called missing as well."""
    assert old in TEXT
    written(TEXT.replace(old, new, 1))
    assert refusal() == f"params.yaml: {sentence}"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("  answers: 20", "  # answers: 20", "report is null; a block of keys is allowed here."),
        ("  pack: true", "", "tokenize.pack is missing; true or false is allowed."),
        ("  lora:\n", "  lora: 3\n  zzz:\n", f"train.lora is 3; a block of keys is allowed here.\n"
         f"       params.yaml: train.zzz is not a known key; known here are {TRAIN_KEYS}."),
        ("  test: 0.17", "  test: 0.95", 'split is {"validation": 0.07, "test": 0.95, "test_files": [], '
         '"group_similarity": 0.5, "contamination": 0.5}; '
         "validation and test together must stay below 1, so that rows are left to train on."),
        ("per_byte.high, at_most: 0.0", "per_byte.high", 'merge.gates.2 is {"metric": "interval.bits_per_byte.high"}; '
         "a gate needs at_least or at_most."),
        ("- {metric: difference.exact_match, at_least: 0.0}", "- exact_match", 'merge.gates.1 is "exact_match"; '
         "a block of keys is allowed here."),
    ],
)  # fmt: skip
def test_a_block_that_is_wrong_as_a_whole_is_named(written, old, new, sentence):
    assert old in TEXT
    written(TEXT.replace(old, new, 1))
    assert refusal() == f"params.yaml: {sentence}"


def test_every_mistake_of_the_file_is_told_at_once(written):
    written(lr="fast", pack="1", seed="x")
    assert [line.strip().split(" is ")[0] for line in refusal().splitlines()] == [
        "params.yaml: seed",
        "params.yaml: tokenize.pack",
        "params.yaml: train.lr",
    ]


def test_a_mistake_in_another_stages_section_stops_the_first_stage(written):
    written(lr="fast")
    assert "train.lr" in refusal(BaseParams)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 7\n\ttrain: 1\n", "params.yaml:2: not valid YAML: found character '\\t' that cannot start any token."),
        ("seed: [7\n", "params.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'."),
        ("seed: 7\nseed: 8\n", 'params.yaml:2: not valid YAML: found duplicate key "seed" with value "8" '
         '(original value: "7").'),
        ("seed: 7\n---\nseed: 8\n", "params.yaml:2: not valid YAML: but found another document."),
        ("seed: !!python/object/apply:os.getcwd []\n", "params.yaml:1: not valid YAML: could not determine a "
         "constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'."),
        ("", "params.yaml holds no keys. `git checkout params.yaml` brings the original back."),
        ("- seed\n", "params.yaml holds no keys. `git checkout params.yaml` brings the original back."),
    ],
)  # fmt: skip
def test_a_file_that_is_no_params_file_is_refused_at_its_line(written, text, sentence):
    written(text)
    assert refusal() == sentence


def test_a_missing_file_and_one_in_another_encoding_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal() == "params.yaml is missing. Run at the top of the clone, or `git checkout params.yaml`."
    params.PARAMS.write_bytes("# 退款\nseed: 7\n".encode("gb18030"))
    assert refusal() == "params.yaml is not UTF-8 at byte 2. Save it as UTF-8."


@pytest.mark.parametrize("text", [TEXT.replace("\n", "\r\n"), f"\ufeff{TEXT}"])
def test_what_an_editor_on_windows_leaves_does_no_harm(written, text):
    written(text)
    assert params.load(TrainParams).method == "lora"


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"lr": "0.1"}, "warning: params.yaml: train.lr is 0.1; 2e-05 … 0.0005 is usual.\n"),
        ({"r": "128"}, "warning: params.yaml: train.lora.r is 128; 4 … 64 is usual.\n"),
        ({"lr": "2e-5"}, ""),  # the edge is usual
        ({"max_steps": "5"}, ""),  # no range is usual
        ({"max_length": "100000"}, ""),  # another stage's, which warns itself
    ],
)
def test_a_value_outside_the_usual_range_earns_a_warning_from_the_stage_that_uses_it(written, capsys, change, warning):
    written(**change)
    params.load(TrainParams)
    assert capsys.readouterr().err == warning


def test_params_cannot_be_changed_once_they_are_read(written):
    written()
    with pytest.raises(ValueError, match="frozen"):
        params.load(TrainParams).lr = 1.0


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("train", "lr", "a number above 0 up to 1"),
        ("train", "max_steps", "a whole number from 1 or null"),
        ("train", "lora", "a block of keys"),
        ("merge", "gates", "a list of blocks"),
        ("format", "system", "text or null"),
        ("validate", "secrets", "one of flag, redact, drop"),
    ],
)
def test_what_a_key_allows_is_said_in_words(section, key, words):
    assert params.allowed(params.sections()[section].model_fields[key]) == words


def test_every_stage_has_a_section_of_its_name():
    stages = {path.stem for path in (ROOT / "stages").glob("*.py")}
    without = {"__init__", "compare", "harness", "ratings", "sheet"}  # what they need they take from evaluate's
    assert set(params.sections()) == stages - without
