"""The held-out rows as tasks of lm-evaluation-harness."""

import importlib.util
import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import harness
from stages.lib.ending import Stops
from stages.lib.errors import UserError
from stages.lib.prompts import Segment
from stages.lib.tokens import Example

PROMPT = "<|im_start|>user\n{{ 1 + 1 }}?<|im_end|>\n<|im_start|>assistant\n"


def row(prompt: str = PROMPT, answer: str = "4711", tokens: int = 3) -> harness.Row:
    example = Example(list(range(tokens + 5)), [], 5)
    return harness.as_row([Segment(prompt, False, False), Segment(answer + "<e>", True, False)], example, ["<e>"])


@pytest.mark.parametrize(
    ("segments", "ends", "expected"),
    [
        ([("Which? ", False), ("4711<e>", True)], ["<e>"], ("Which? ", "4711", "4711<e>")),
        ([("Which? ", False), ("<think></think>", True), ("4711<e><e>", True)], ["<e>"], None),
        ([("a", False), ("b<e>", True), ("c", False), ("d<f>", True)], ["<e>", "<f>"], ("ab<e>c", "d", "d<f>")),
        ([("a", False), ("<e> stays inside", True)], ["<e>"], ("a", "<e> stays inside", "<e> stays inside")),
    ],
    ids=["one answer", "ended twice", "the last of two answers", "an end in the middle"],
)
def test_a_row_is_the_text_that_is_sent_and_the_last_answer_as_the_template_writes_it(
    segments: list[tuple[str, bool]], ends: list[str], expected: tuple[str, str, str] | None
) -> None:
    made = harness.as_row([Segment(text, trained, False) for text, trained in segments], Example([], [], 0), ends)

    whole = ("Which? ", "<think></think>4711", "<think></think>4711<e><e>")
    assert (made.prompt, made.answer, made.completion) == (expected or whole)


@given(prompt=st.text(min_size=1), answer=st.text(min_size=1))
def test_context_and_choice_together_are_the_text_of_the_row_whatever_blanks_stand_between(
    prompt: str, answer: str
) -> None:
    made = row(prompt, answer)
    held = harness.columns(made)

    context, choices = held["context"], held["choices"]
    assert context == context.rstrip()  # so lm_eval moves nothing over
    assert [context + choice for choice in choices[:2]] == [prompt + made.answer, prompt + made.completion]
    assert [context + blanks for blanks in choices[2:]] == [prompt] * (context != prompt)
    assert held["prompt"] == prompt


@given(
    answer=st.floats(-100, 0),
    end=st.floats(-10, 0),
    blanks=st.one_of(st.none(), st.floats(-10, 0)),
    tokens=st.integers(1),
)
def test_what_blanks_of_the_prompt_cost_is_no_part_of_a_reference(
    answer: float, end: float, blanks: float | None, tokens: int
) -> None:
    before = [] if blanks is None else [(blanks, True)]
    lead = blanks or 0.0
    results = [(lead + answer, False), (lead + answer + end, False), *before]

    found = harness.foreseen({"answer": "é1", "tokens": tokens}, results)

    assert found["bits_per_byte"] == (pytest.approx(answer, abs=1e-9), 3)
    assert found["perplexity"] == (pytest.approx(answer + end, abs=1e-9), tokens)


def test_answers_are_greedy_and_end_where_the_template_says() -> None:
    answers, references = harness.tasks([row()], Stops((2, 7), ("\n###",)), 32)

    assert answers["generation_kwargs"] == {
        "until": ["\n###"],
        "eos_token_id": [2, 7],
        "max_gen_toks": 32,
        "do_sample": False,
    }
    assert [task["num_fewshot"] for task in (answers, references)] == [0, 0]
    assert harness.tasks([row()], Stops(()), 32)[0]["generation_kwargs"]["eos_token_id"] is None


def test_a_missing_lm_eval_is_answered_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(UserError, match=r"not installed. Run `pip install -c constraints\.txt --group harness`"):
        harness.require()


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        ({"known": ["boolq"]}, "lm_eval has no task arc_easy. `lm-eval ls tasks` lists those that it has."),
        (
            {"error": ConnectionError("Couldn't reach 'allenai/ai2_arc'\nmore")},
            "cannot be fetched: Couldn't reach 'allen",
        ),
        (
            {"error": ImportError("No module named 'langdetect'")},
            "No module named 'langdetect'. Install what is missing",
        ),
        ({"error": FileNotFoundError("code_eval.py")}, "code from the hub is needed, which Retune does not run"),
        ({"unsafe": True}, "arc_easy would run code that the model writes. Leave it out."),
    ],
    ids=["unknown", "no hub", "no package", "a program from the hub", "runs what a model writes"],
)
def test_a_published_task_that_cannot_be_run_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, outcome: dict[str, Any], sentence: str
) -> None:
    class Manager:
        all_tasks = outcome.get("known", ["arc_easy"])

        def load(self, names: list[str]) -> dict[str, Any]:
            if "error" in outcome:
                raise outcome["error"]
            return {"tasks": {name: SimpleNamespace(UNSAFE_CODE="unsafe" in outcome) for name in names}}

    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", SimpleNamespace(TaskManager=Manager))

    with pytest.raises(UserError) as refusal:
        harness.published(["arc_easy"])
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("prompt", [PROMPT, "no blank at the end", "Jinja {% raw %} \n\n\t", "第一\u3000"])
def test_lm_eval_sends_the_prompt_and_the_reference_byte_for_byte(prompt: str) -> None:
    task = pytest.importorskip("lm_eval.api.task")
    answers, references = (
        task.ConfigurableTask(config=one)
        for one in harness.tasks([row(prompt, "[4711]\n"), row(prompt, "12")], Stops((2,)), 32)
    )
    for one in (answers, references):
        one.build_all_requests()

    assert [request.args[0] for request in answers.instances] == [prompt, prompt]
    assert [answers.doc_to_target(doc) for doc in answers.eval_docs] == ["[4711]\n", "12"]
    assert {"".join(request.args) for request in references.instances} - {prompt} == {
        prompt + text for text in ("[4711]\n", "[4711]\n<e>", "12", "12<e>")
    }


def test_sums_are_lm_evals_own() -> None:
    task = pytest.importorskip("lm_eval.api.task")
    _, config = harness.tasks([row()], Stops((2,)), 32)
    aggregation = task.ConfigurableTask(config=config).aggregation()

    assert aggregation["bits_per_byte"]([(-math.log(4), 1), (0.0, 3)]) == pytest.approx(0.5)
    assert aggregation["perplexity"]([(-math.log(4), 1), (0.0, 1)]) == pytest.approx(2)
