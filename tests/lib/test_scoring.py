"""Scoring: the loss of each answer token, whatever it is batched with."""

import math

import numpy as np
import pytest
import torch

from stages.lib import prefill, scoring
from stages.lib.figures import bits_per_byte, calibration, calibration_error, perplexity
from stages.lib.scoring import Foreseen, foresee
from tests.tiny import VOCABULARY, tiny_gpt2, tiny_llama, tiny_mistral

MODELS = {"llama": tiny_llama(), "gpt2": tiny_gpt2(), "mistral": tiny_mistral()}


RANDOM = np.random.default_rng(5)
LENGTHS = [(1, 3), (90, 1), (3, 40), (7, 2), (1, 1), (20, 5), (64, 12), (3, 3), (33, 7)]  # of prompt and completion
ROWS = [[RANDOM.integers(VOCABULARY, size=number).tolist() for number in pair] for pair in LENGTHS]


def foreseen(model, rows, batch_size: int) -> list[Foreseen]:
    found = {}
    for places in prefill.batches([len(prompt) for prompt, _ in rows], batch_size):
        read = prefill.read(model, [rows[place][0] for place in places])
        found |= zip(places, foresee(model, read, [rows[place][1] for place in places]), strict=True)
    return [found[place] for place in range(len(rows))]


def losses(model, rows, batch_size: int) -> list[list[float]]:
    return [one.nats for one in foreseen(model, rows, batch_size)]


def by_the_book(model, prompt: list[int], completion: list[int]) -> list[float]:
    """One row, one forward pass, no padding, no cache."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + completion]), use_cache=False).logits[0].double()
    steps = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return (-logits.log_softmax(-1)[steps, completion]).tolist()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_each_completion_token_has_the_loss_of_a_plain_forward_pass(model):
    for (prompt, completion), found in zip(ROWS, losses(model, ROWS, batch_size=4), strict=True):
        assert found == pytest.approx(by_the_book(model, prompt, completion), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_confidence_is_the_largest_probability_and_a_hit_is_where_it_came(model):
    rows = [*ROWS, (ROWS[0][0], greedy(model, ROWS[0][0], 4))]  # one completion that the model would write
    for (prompt, completion), found in zip(rows, foreseen(model, rows, batch_size=4), strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + completion]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        held = logits.double().softmax(-1)
        assert found.confidence == pytest.approx(held.max(-1).values.tolist(), rel=1e-4)
        assert found.hits == (held.argmax(-1) == torch.tensor(completion)).tolist()
    assert all(found.hits)


def greedy(model, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [3, 16])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_loss_does_not_move_with_batch_size_or_order(model, batch_size):
    """Field fault 23: a mean of batch means went from 2.99 to 4.98 with the batch size alone."""
    alone = [math.fsum(row) for row in losses(model, ROWS, batch_size=1)]
    order = RANDOM.permutation(len(ROWS)).tolist()
    for places in (range(len(ROWS)), order):
        found = [math.fsum(row) for row in losses(model, [ROWS[place] for place in places], batch_size)]
        assert found == pytest.approx([alone[place] for place in places], rel=1e-5)
        assert math.fsum(found) == pytest.approx(math.fsum(alone), rel=1e-6)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_long_answer_is_scored_in_parts_with_the_same_result(model, monkeypatch):
    whole = losses(model, ROWS, batch_size=9)
    monkeypatch.setattr(scoring, "LOGITS", 7 * 9 * VOCABULARY)  # seven tokens of nine rows
    for part, expected in zip(losses(model, ROWS, batch_size=9), whole, strict=True):
        assert part == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_logits_are_never_held_for_all_tokens_of_long_answers(monkeypatch):
    model = MODELS["llama"]
    monkeypatch.setattr(scoring, "LOGITS", 10 * 2 * VOCABULARY)
    seen = []
    hook = model.lm_head.register_forward_hook(lambda *call: seen.append(call[-1].numel()))
    losses(model, [([1, 2], [5] * 55), ([1, 2, 3], [7] * 31)], batch_size=2)
    hook.remove()
    assert max(seen) == 10 * 2 * VOCABULARY


def test_scoring_leaves_the_prompts_as_they_were_read():
    model = MODELS["llama"]
    read = prefill.read(model, [[1, 2, 3], [4]])
    first = foresee(model, read, [[5, 6], [7]])
    assert foresee(model, read, [[5, 6], [7]]) == first


def test_perplexity_weighs_tokens_and_not_rows():
    """Rows of 1 and of 9 tokens, at 1 and 2 nats a token: a mean over rows would give exp(1.5)."""
    assert perplexity(np.array(1 * 1 + 9 * 2), np.array(10)) == pytest.approx(math.exp(1.9))


def test_a_fair_coin_for_every_bit_takes_eight_bits_per_byte():
    assert bits_per_byte(np.array(3 * 8 * math.log(2)), np.array(3)) == pytest.approx(8)


def test_what_is_not_defined_is_no_number_and_raises_nothing():
    """Field fault 4: the report leaves such figures out."""
    nothing = np.array(0.0)
    assert np.isnan(perplexity(nothing, nothing))
    assert np.isnan(bits_per_byte(nothing, nothing))
    assert np.isinf(perplexity(np.array(1e6), np.array(1.0)))


def test_calibration_error_by_hand():
    """0.9 sure and right half the time: 0.4 off. 0.35 sure and right once in four: 0.1 off. 4 and 4 tokens."""
    counts = calibration([0.9] * 4 + [0.35] * 4, [True, False] * 2 + [True, False, False, False])

    assert calibration_error(np.array(counts)) == pytest.approx(0.25)


def test_calibration_adds_up_over_rows_and_knows_certainty():
    one, other = calibration([1.0, 0.31], [True, False]), calibration([0.39], [True])

    summed = np.array(one) + np.array(other)
    assert summed.tolist() == calibration([1.0, 0.31, 0.39], [True, False, True])
    assert calibration_error(summed) == pytest.approx((0 + abs(0.7 - 1)) / 3)
    assert np.isnan(calibration_error(np.zeros(30)))
    assert calibration_error(np.stack([[summed, np.array(one)]] * 2)).shape == (2, 2)
