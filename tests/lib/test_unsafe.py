"""What is unsafe to learn from: by the lexicon, and by a classifier that somebody exported to ONNX."""

import builtins
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from stages.lib import classifier
from stages.lib.classifier import Classifier
from stages.lib.errors import UserError
from stages.lib.records import Message, Record
from stages.lib.rejects import Code, Reject
from stages.lib.unsafe import Watch

VOCABULARY = ["[UNK]", "nasty", "vile", "fine"]
LOGITS = [[-4, -4], [2, -4], [-4, 3], [-2, -4]]  # of toxic and threat, for each word


def write_classifier(folder, config=None, model="onnx/model.onnx"):
    """A classifier that calls a text what its worst word is."""
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["each"]),
        helper.make_node("ReduceMax", ["each"], ["logits"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "worst",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, None])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.array(LOGITS, np.float32), "words")],
    )
    path = folder / model
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    many = {"problem_type": "multi_label_classification", "id2label": {"1": "threat", "0": "toxic"}}
    (folder / "config.json").write_text(json.dumps(many | (config or {})), encoding="utf-8")
    return folder


@pytest.fixture
def watch(tmp_path, params_for):
    """`watch(action="drop")`: with a lexicon of one phrase, and the classifier below the folder `model`, if any."""
    (tmp_path / "words.txt").write_text("[threat]\nbeat you\n", encoding="utf-8")

    def over(**overrides):
        given = params_for("validate").unsafe.model_dump() | {"lexicon": str(tmp_path / "words.txt")} | overrides
        return Watch.over(params_for("validate", unsafe=given).unsafe)

    return over


def record(answer, question="Well?", tags=()):
    return Record("a", 1, (Message("user", question), Message("assistant", answer)), None, "c", tags)


def test_a_safe_record_stays_as_it_is(watch):
    one = record("Fine.")
    assert watch().judge(one) is one


@pytest.mark.parametrize("one", [record("I'll BEAT you"), record("Fine.", "May I beat you?")])
def test_a_phrase_of_the_lexicon_tags_the_record_or_drops_it(watch, one):
    assert watch(action="flag").judge(one).tags == ("unsafe:threat",)
    reject = watch(action="drop").judge(one)
    expected = Reject(Code.UNSAFE, 'the row holds "beat you" (threat)', {"kind": "threat", "phrase": "beat you"})
    assert reject == expected


def test_the_classifier_says_which_label_and_how_surely(watch, tmp_path):
    folder = write_classifier(tmp_path / "model")
    drop = watch(action="drop", classifier=str(folder))
    assert drop.judge(record("all is fine")) == record("all is fine")
    reject = drop.judge(record("fine", "a nasty thing"))
    assert reject.reason == "the classifier calls the row toxic (probability 0.88)"  # sigmoid of 2
    assert reject.detail == {"kind": "toxic", "probability": 0.881}
    assert watch(action="drop", classifier=str(folder), threshold=0.9).judge(record("nasty")) == record("nasty")


def test_labels_of_one_choice_share_one_probability(watch, tmp_path):
    folder = write_classifier(tmp_path / "model", {"problem_type": "single_label_classification"}, "model.onnx")
    (finding,) = watch(classifier=str(folder)).find(record("a nasty thing"))
    assert finding.detail["probability"] == 0.998  # e² of e² + e⁻⁴


def test_only_labels_that_the_params_name_count_and_each_kind_once(watch, tmp_path):
    folder = str(write_classifier(tmp_path / "model"))
    one = record("vile and nasty, I beat you")
    assert watch(classifier=folder).judge(one).tags == ("unsafe:threat", "unsafe:toxic")
    assert watch(classifier=folder, labels=["threat"]).judge(one).tags == ("unsafe:threat",)


def test_why_a_record_was_tagged_is_told_without_asking_the_classifier_again(watch, tmp_path, monkeypatch):
    found = watch(classifier=str(write_classifier(tmp_path / "model")))
    tagged = found.judge(record("vile and nasty, I beat you", tags=("unsafe:odd", "vip")))
    monkeypatch.setattr(Classifier, "judge", None)
    assert list(found.reasons(tagged)) == ['the row holds "beat you" (threat)', "the classifier calls the row toxic"]
    assert list(watch().reasons(record("Fine.", tags=("unsafe:toxic",)))) == []  # somebody's own tag


def test_a_long_text_is_read_to_its_end(watch, tmp_path):
    folder = write_classifier(tmp_path / "model", {"max_position_embeddings": 8})
    assert watch(classifier=str(folder)).judge(record("fine " * 30 + "nasty")).tags == ("unsafe:toxic",)


def test_a_classifier_calls_texts_only_what_it_is_asked_for_and_is_sure_of(tmp_path):
    found = classifier.find(write_classifier(tmp_path / "model"), ["toxic"], "params.yaml: here")
    assert found.calls(["fine", "a nasty one"], ["toxic", "threat"], 0.5) == pytest.approx({"toxic": 0.881}, abs=1e-3)
    assert found.calls(["vile", "a nasty one"], ["threat"], 0.5).keys() == {"threat"}
    assert found.calls(["nasty"], ["toxic"], 0.9) == {}


def test_a_text_that_stands_in_many_rows_is_judged_once(watch, tmp_path, monkeypatch):
    found = watch(action="drop", classifier=str(write_classifier(tmp_path / "model")))
    read = []
    pieces = classifier._Model.pieces
    monkeypatch.setattr(classifier._Model, "pieces", lambda model, text: read.append(text) or pieces(model, text))
    results = [found.judge(record("Fine.", f"question {number}")) for number in range(5)]
    assert results == [record("Fine.", f"question {number}") for number in range(5)]
    assert sorted(read) == ["Fine.", *(f"question {number}" for number in range(5))]


def test_another_lexicon_or_classifier_is_another_version(watch, tmp_path):
    folder = write_classifier(tmp_path / "model")
    versions = {watch().version(), watch(classifier=str(folder)).version()}
    write_classifier(folder, {"more": 1})
    versions.add(watch(classifier=str(folder)).version())
    (tmp_path / "words.txt").write_text("[threat]\nbeat me\n", encoding="utf-8")
    versions.add(watch().version())
    assert len(versions) == 4


def test_another_release_of_what_runs_the_classifier_is_another_version(watch, tmp_path, monkeypatch):
    """Its last digits may differ, and a remembered judgement may not show in the result."""
    found = watch(classifier=str(write_classifier(tmp_path / "model")))
    before = found.version()
    monkeypatch.setattr("onnxruntime.__version__", "99")
    assert found.version() != before


def without(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "labels", "problem"),
    [
        (without("onnx/model.onnx"), ["toxic"], "but there is no model.onnx. Export the classifier to ONNX there."),
        (without("config.json"), ["toxic"], "but there is no config.json."),
        (lambda folder: (folder / "onnx/model.onnx").write_bytes(b"?"), ["toxic"], "cannot be used: "),
        (lambda folder: (folder / "tokenizer.json").write_text("?"), ["toxic"], "cannot be used: "),
        (
            lambda folder: (folder / "config.json").write_text("{}"),
            ["toxic"],
            "cannot be used: config.json names no label",
        ),
        (lambda _: None, ["hate"], "names hate, but the classifier knows toxic, threat."),
    ],
)
def test_a_classifier_that_cannot_be_used_is_one_sentence(watch, tmp_path, damage, labels, problem):
    damage(write_classifier(tmp_path / "model"))
    with pytest.raises(UserError, match=r"params.yaml: validate.unsafe.") as raised:
        watch(classifier=str(tmp_path / "model"), labels=labels)
    assert problem in str(raised.value)


def test_an_error_that_says_nothing_is_called_by_its_name(watch, tmp_path, monkeypatch):
    folder = write_classifier(tmp_path / "model")

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Classifier, "judge", fail)
    with pytest.raises(UserError, match=r"cannot be used: MemoryError\(\)"):
        watch(classifier=str(folder))


def test_a_missing_onnxruntime_is_named(watch, tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args):
        if name == "onnxruntime":
            raise ImportError
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"needs onnxruntime, which is not installed. Run `pip install"):
        watch(classifier=str(write_classifier(tmp_path / "model")))
