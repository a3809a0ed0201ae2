"""The diagnosis of a training: every finding from both sides, on made curves and on real ones."""

import csv
import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.lib import diagnosis
from stages.lib.diagnosis import Curves, Facts, diagnose
from stages.lib.params import sections
from stages.lib.symptoms import Symptom
from tools import docs_tables

ROOT = Path(__file__).resolve().parent.parent.parent
FACTS = Facts(
    method="lora", lr=2e-4, max_grad_norm=1.0, epochs=2.0, examples=1000, dropped=0, max_length=512, padding=0.0
)
Shape = Callable[[np.ndarray], Any]  # of the time, 0 to 1
Rows = list[dict[str, Any]]


def healthy(time: np.ndarray) -> np.ndarray:
    return 1.5 * np.exp(-12 * time) + 0.5


def level(height: float) -> Shape:
    return lambda time: height + 0 * time


CALM = level(0.5)


def run(shape: Shape = healthy, steps: int = 120, noise: float = 0.1, norm: Shape = CALM) -> Rows:
    """A training curve in noise, as train writes it."""
    time = np.arange(1, steps + 1) / steps
    draw = np.random.default_rng(5)
    losses, norms = (curve(time) * np.exp(noise * draw.standard_normal(steps)) for curve in (shape, norm))
    return [
        {"step": place + 1, "loss": loss, "lr": 2e-4, "grad_norm": length}
        for place, (loss, length) in enumerate(zip(losses, norms, strict=True))
    ]


def judged(*losses: float, steps: int = 120) -> Rows:
    """Judgements at even distances, the last of them at the last step."""
    return [{"step": round(steps * (place + 1) / len(losses)), "loss": loss} for place, loss in enumerate(losses)]


SETTLED = judged(0.9, 0.6, 0.53, 0.51, 0.50, 0.50)
RISEN = judged(0.9, 0.5, 0.55, 0.6, 0.7, 0.8)


def found(training: Rows | None = None, validation: Rows = SETTLED, **facts: Any) -> dict[Symptom, str]:
    curves = Curves.of(run() if training is None else training, validation)
    return {one.name: one.fact for one in diagnose(curves, replace(FACTS, **facts))}


def test_a_healthy_run_is_called_so_and_nothing_else():
    assert found() == {Symptom.CONVERGED: ("The validation loss has flattened: 0.5 at step 100, 0.5 at step 120.")}


@pytest.mark.parametrize(
    ("symptom", "just_so", "not_quite"),
    [
        (
            Symptom.DIVERGING,
            {"training": run(lambda time: np.where(time < 0.6, healthy(time), 1.5))},
            {"training": run(lambda time: np.where(time < 0.6, healthy(time), 0.52))},
        ),
        (
            Symptom.DIVERGING,  # within the last tenth only
            {"training": run(lambda time: np.where(time < 0.92, healthy(time), 1.5), steps=200)},
            {"training": run(lambda time: np.where(time < 0.99, healthy(time), 1.5), steps=200)},
        ),
        (
            Symptom.DIVERGING,  # surely in both, but in one of them by too little
            {"training": run(lambda time: np.where(time < 0.6, 0.5, 0.58), noise=0.01)},
            {"training": run(lambda time: np.where(time < 0.6, 0.5, 0.54), noise=0.01)},
        ),
        (
            Symptom.DIVERGING,  # at the very start, never to come back
            {"training": run(lambda time: np.where(time < 0.3, 2.0, 7.0))},
            {"training": run(lambda time: np.where(time < 0.3, 7.0, 2.0))},
        ),
        (
            Symptom.EXPLODING,
            {"training": run(norm=lambda time: np.where(time < 0.8, 0.5, 8.0))},
            {"training": run(norm=lambda time: np.where(time < 0.8, 0.5, 4.0))},
        ),
        (
            Symptom.EXPLODING,  # but what is not clipped does no harm
            {"training": run(norm=lambda time: np.where(time < 0.8, 0.12, 1.8))},
            {"training": run(norm=lambda time: np.where(time < 0.8, 0.05, 0.75))},
        ),
        (
            Symptom.EXPLODING,  # in bursts of three steps
            {"training": run(norm=lambda time: np.where(np.round(120 * time) % 40 < 3, 30.0, 0.5))},
            {"training": run(norm=lambda time: np.where(np.round(120 * time) % 40 < 3, 3.0, 0.5))},
        ),
        (
            Symptom.EXPLODING,  # in bursts that nothing has to cut
            {"training": run(norm=lambda time: np.where(np.round(120 * time) % 40 < 3, 1.5, 0.05))},
            {"training": run(norm=lambda time: np.where(np.round(120 * time) % 40 < 3, 0.6, 0.02))},
        ),
        (Symptom.OVER_FITTING, {"validation": RISEN}, {"validation": judged(0.9, 0.5, 0.505, 0.51, 0.52, 0.52)}),
        (
            Symptom.OVER_FITTING,  # twice nothing is nothing
            {"validation": judged(0.1, 0.01, 0.02)},
            {"validation": judged(0.1, 0.001, 0.002)},
        ),
        (
            Symptom.MEMORISED,
            {"training": run(lambda time: 2 * np.exp(-9 * time) + 0.01), "validation": judged(0.6, 0.5, 0.5)},
            {"training": run(lambda time: 2 * np.exp(-9 * time) + 0.01), "validation": judged(0.2, 0.05, 0.05)},
        ),
        (
            Symptom.MEMORISED,
            {"training": run(lambda time: 2 * np.exp(-9 * time) + 0.01), "validation": RISEN},
            {"training": run(lambda time: 2 * np.exp(-9 * time) + 0.10), "validation": RISEN},
        ),
        (
            Symptom.MEMORISED,  # rows that are met for the first time cannot be known by heart
            {"training": run(lambda time: 2 * np.exp(-9 * time) + 0.01), "validation": RISEN, "epochs": 1.2},
            {"training": run(lambda time: 2 * np.exp(-9 * time) + 0.01), "validation": RISEN, "epochs": 1.0},
        ),
        (
            Symptom.FLAT,
            {"training": run(level(2.3)), "validation": judged(2.31, 2.3, 2.3)},
            {"training": run(lambda time: 2.3 - 0.5 * time), "validation": judged(2.1, 2.0, 1.9)},
        ),
        (
            Symptom.FLAT,  # most runs learn most in their first steps
            {"training": run(level(1.2), steps=300), "validation": []},
            {"training": run(lambda time: np.where(time < 0.04, 1.8, 1.2), steps=300), "validation": []},
        ),
        (
            Symptom.FLAT,  # in the first three steps, even
            {"training": run(level(1.2), noise=0.05), "validation": []},
            {"training": run(lambda time: np.where(time < 0.03, 1.8, 1.2), noise=0.05), "validation": []},
        ),
        (
            Symptom.FLAT,  # what makes the validation loss rise has learned something, if by heart
            {"training": run(level(2.3)), "validation": judged(2.3, 2.3, 2.35)},
            {"training": run(level(2.3)), "validation": judged(2.3, 2.4, 2.6)},
        ),
        (
            Symptom.FLAT,  # the base knew it all
            {"training": run(level(0.06)), "validation": judged(0.06, 0.06, 0.06)},
            {"training": run(level(0.03)), "validation": judged(0.03, 0.03, 0.03)},
        ),
        (
            Symptom.SPIKING,
            {"training": run(lambda time: healthy(time) * np.where(np.round(120 * time) % 50 < 2, 4, 1))},
            {"training": run(lambda time: healthy(time) * np.where(np.round(120 * time) % 50 < 1, 4, 1))},
        ),
        (
            Symptom.SPIKING,  # twice nothing is nothing
            {"training": run(lambda time: 0.05 * np.where(np.round(120 * time) % 50 < 2, 4, 1))},
            {"training": run(lambda time: 0.01 * np.where(np.round(120 * time) % 50 < 2, 4, 1))},
        ),
        (
            Symptom.SPIKING,  # twice, or it was an odd batch
            {"training": run(lambda time: healthy(time) * np.where(np.round(120 * time) % 50 < 2, 4, 1))},
            {"training": run(lambda time: healthy(time) * np.where(np.round(120 * time) % 70 < 2, 4, 1))},
        ),
        (
            Symptom.STILL_FALLING,
            {"validation": judged(0.9, 0.7, 0.64)},
            {"validation": judged(0.9, 0.7, 0.68)},
        ),
        (
            Symptom.STILL_FALLING,  # over the last third, however often it is judged
            {"validation": judged(*np.linspace(0.9, 0.5, 20))},
            {"validation": judged(0.9, *np.linspace(0.52, 0.5, 19))},
        ),
        (
            Symptom.STILL_FALLING,  # or trembling down
            {"validation": judged(*np.linspace(0.9, 0.51, 19), 0.515)},
            {"validation": judged(0.871, 0.402, 0.318, 0.324)},
        ),
        (Symptom.CONVERGED, {"validation": judged(0.871, 0.402, 0.318, 0.324)}, {"validation": judged(0.87, 0.4, 0.3)}),
        (Symptom.NO_VALIDATION, {"validation": []}, {"validation": judged(0.5)}),
        (Symptom.FEW_JUDGEMENTS, {"validation": judged(0.6, 0.5)}, {"validation": judged(0.6, 0.5, 0.5)}),
        (Symptom.FEW_JUDGEMENTS, {"validation": judged(0.5)}, {"validation": []}),
        (Symptom.TOO_SHORT, {"training": run(steps=29)}, {"training": run(steps=30)}),
        (
            Symptom.TOO_NOISY,
            {"training": run(lambda time: 1.3 - 0.2 * time, noise=1.0), "validation": []},
            {"training": run(lambda time: 1.3 - 0.2 * time, noise=0.02), "validation": []},
        ),
        (
            Symptom.TOO_NOISY,  # the validation loss tells it in spite of the scatter
            {"training": run(level(1.3), noise=1.0), "validation": judged(1.3, 1.3, 1.3)},
            {"training": run(level(1.3), noise=1.0), "validation": judged(1.6, 1.3, 1.3)},
        ),
        (Symptom.CONVERGED, {"validation": judged(0.9, 0.7, 0.68)}, {"validation": judged(0.9, 0.7, 0.64)}),
        (
            Symptom.CONVERGED,  # no rest where nothing has moved
            {"training": run(healthy), "validation": judged(0.5, 0.5, 0.5)},
            {"training": run(level(2.3)), "validation": judged(0.5, 0.5, 0.5)},
        ),
        (Symptom.CLIPPED, {"training": run(norm=level(1.5))}, {"training": run(norm=level(1.1))}),
        (Symptom.PADDING, {"padding": 0.20}, {"padding": 0.19}),
        (Symptom.DROPPED, {"examples": 990, "dropped": 10}, {"examples": 991, "dropped": 9}),
    ],
)
def test_a_finding_is_made_where_it_is_true_and_only_there(symptom, just_so, not_quite):
    assert symptom in found(**just_so)
    assert symptom not in found(**not_quite)


@pytest.mark.parametrize(
    ("made", "symptom", "fact"),
    [
        (
            {"training": run(level(0.5)), "validation": RISEN, "epochs": 3.0},
            Symptom.OVER_FITTING,
            "The validation loss was lowest at step 40 (0.5, at epoch 1 of 3) and rose to 0.8 by step 120.",
        ),
        (
            {"training": run(lambda time: 1.2 - time, noise=0.0), "validation": judged(0.9, 0.5, 0.8, 1.0)},
            Symptom.OVER_FITTING,
            "The validation loss was lowest at step 60 (0.5, at epoch 1 of 2) and rose to 1 by step 120, while the "
            "training loss fell on from 0.946 to 0.446 (medians).",
        ),
        (
            {"training": run(level(0.5)), "validation": judged(0.9, 0.5, 0.6)},
            Symptom.OVER_FITTING,
            "The validation loss was lowest at step 80 (0.5, at epoch 1.33 of 2) and rose to 0.6 by step 120. One "
            "judgement alone can be chance.",
        ),
        (
            {"training": run(norm=level(3.0), noise=0.0)},
            Symptom.CLIPPED,
            "In 120 of 120 steps the gradient was longer than train.max_grad_norm (1) and was cut to it; the median "
            "norm is 3.",
        ),
        (
            {"training": run(level(2.3), noise=0.0), "validation": [], "lr": 1e-6},
            Symptom.FLAT,
            "The training loss hardly moved at a rate of 1e-06 with lora: 2.3 over the first third of 120 steps, 2.3 "
            "over the last (medians).",
        ),
        (
            {"validation": judged(0.871, 0.402, 0.318, 0.324)},
            Symptom.CONVERGED,
            "The validation loss has flattened: 0.318 at step 90, 0.324 at step 120.",
        ),
        (
            {"examples": 843, "dropped": 2000},
            Symptom.DROPPED,
            "2,000 of 2,843 training rows (70.3%) were left out: longer than 512 tokens.",
        ),
        (
            {"training": run(lambda time: 0.01 + 0 * time, noise=0.0), "validation": []},
            Symptom.NO_VALIDATION,
            "There are no validation rows: whether the model learned or memorised cannot be told. A training loss of "
            "0.01 at the end may be learning by heart.",
        ),
        (
            {"training": run(lambda time: np.where(time <= 0.6, 0.5, 1.5), noise=0.0)},
            Symptom.DIVERGING,
            "The training loss rose from 0.5 (median of steps 1–36) to 1.5 (of the last 12).",
        ),
    ],
)
def test_a_finding_says_its_figures(made, symptom, fact):
    assert found(**made)[symptom] == fact


# At most one of them can be true.
VERDICTS = {Symptom.OVER_FITTING, Symptom.FLAT, Symptom.STILL_FALLING, Symptom.TOO_NOISY, Symptom.CONVERGED}


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_the_curves_something_is_said_and_nothing_contradicts(data):
    height, scatter = data.draw(st.floats(0, 20)), data.draw(st.floats(0, 1))
    losses = st.floats(height * (1 - scatter), height * (1 + scatter))
    norms = st.floats(0, 1e9) | st.just(math.inf)
    steps = data.draw(st.integers(1, 60))
    training = [{"step": step + 1, "loss": data.draw(losses), "grad_norm": data.draw(norms)} for step in range(steps)]
    said = found(training, judged(*data.draw(st.lists(losses, max_size=6)), steps=steps))
    assert said
    assert len(VERDICTS & set(said)) <= 1
    assert list(said) == [name for name in Symptom if name in said]  # the most important first
    assert not re.search(r"\b(nan|inf)\b", " ".join(said.values()))


def test_a_run_that_trembles_around_nothing_is_not_given_a_fault():
    """Forty healthy runs of many kinds of scatter: an alarm in none of them."""
    faults = {Symptom.DIVERGING, Symptom.EXPLODING, Symptom.SPIKING, Symptom.FLAT, Symptom.OVER_FITTING}
    draw = np.random.default_rng(6)
    for scatter in (0.05, 0.2, 0.5, 1.0):
        for steps in (40, 400):
            for _ in range(5):
                time = np.arange(1, steps + 1) / steps
                losses, norms = healthy(time) * np.exp(scatter * draw.standard_normal((2, steps)))
                training = [
                    {"step": place + 1, "loss": losses[place], "grad_norm": norms[place]} for place in range(steps)
                ]
                assert not faults & set(found(training, judged(0.9, 0.6, 0.53, 0.51, 0.5, 0.5, steps=steps)))


def committed(name: str) -> Rows:
    with open(ROOT / "reports" / name, encoding="utf-8", newline="") as file:
        return [{column: float(cell) for column, cell in row.items()} for row in csv.DictReader(file)]


def test_of_the_demo_run_is_said_what_its_curves_show():
    """Whatever the demo's run of the day: each judgement is recomputed here by other means."""
    training, validation = committed("train_loss.csv"), committed("eval_loss.csv")
    said = found(training, validation, epochs=1.5)
    losses = [row["loss"] for row in validation]
    assert fmean(row["loss"] for row in training[-12:]) < fmean(row["loss"] for row in training[:12]) / 5
    assert not {Symptom.FLAT, Symptom.DIVERGING, Symptom.TOO_NOISY, Symptom.SPIKING, Symptom.EXPLODING} & set(said)
    assert (Symptom.OVER_FITTING in said) == (losses[-1] >= 1.05 * min(losses) + 1e-12)
    assert (Symptom.FEW_JUDGEMENTS in said) == (len(losses) < 3)
    if Symptom.STILL_FALLING in said:
        assert losses[-1] == min(losses)
        assert f"{losses[-1]:.3g} at step {validation[-1]['step']:.0f}" in said[Symptom.STILL_FALLING]


def test_the_first_release_s_demo_run_was_still_falling():
    validation = [{"step": 40, "loss": 0.18855}, {"step": 80, "loss": 0.09348}, {"step": 120, "loss": 0.08498}]
    assert found(run(lambda time: 2.5 * np.exp(-9 * time) + 0.06, noise=1.0), validation, epochs=1.5) == {
        Symptom.STILL_FALLING: "The validation loss was still falling: 0.0935 at step 80, 0.085 at step 120 (9% "
        "lower), at epoch 1.5."
    }


def test_a_norm_that_overflows_in_fp16_is_passed_over():
    training = run()
    training[3]["grad_norm"] = float("inf")
    assert set(found(training)) == {Symptom.CONVERGED}


@pytest.mark.parametrize(
    ("lengths", "batch_size", "share"),
    [
        ([5, 7, 9], 1, 0.0),  # a row by itself has nothing to be padded to
        ([8, 8, 8, 8], 4, 0.0),
        ([2, 8], 2, 1 - 5 / 8),
        ([2, 8], 64, 1 - 5 / 8),  # no more than there are
        ([1, 2, 3], 2, 1 - 2 / fmean(map(max, combinations([1, 2, 3], 2)))),
        ([3, 1, 4, 1, 5, 9, 2, 6], 3, 1 - 31 / 8 / fmean(map(max, combinations([3, 1, 4, 1, 5, 9, 2, 6], 3)))),
    ],
)
def test_padding_is_the_mean_over_all_batches_that_chance_can_make(lengths, batch_size, share):
    assert diagnosis.padding(lengths, batch_size) == pytest.approx(share)
    assert diagnosis.padding(lengths, batch_size, width=20) == pytest.approx(1 - fmean(lengths) / 20)


def test_the_report_lists_the_names_for_tables_and_the_findings_for_readers():
    curves = Curves.of(run(norm=level(3.0)), RISEN)
    said = diagnosis.report(diagnose(curves, FACTS))
    assert said["names"] == "over-fitting, clipped"
    assert [list(finding) for finding in said["findings"]] == [["name", "fact", "advice"]] * 2
    assert said["findings"][0]["advice"] == Symptom.OVER_FITTING.advice


@pytest.mark.parametrize("symptom", Symptom)
def test_advice_names_settings_that_exist(symptom):
    keys = {key for name, section in sections().items() for key, _ in docs_tables.fields(section, name)}
    named = set(re.findall(r"\b(?:train|tokenize|split)\.[a-z_]+(?:\.[a-z_]+)*", f"{symptom.meaning} {symptom.advice}"))
    assert named <= keys


def test_every_symptom_has_a_rule():
    assert list(diagnosis.RULES) == list(Symptom)
