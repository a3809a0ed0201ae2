"""Scoring: the loss of each answer token, whatever it is batched with."""

import math

import numpy as np
import pytest
import torch

from stages.lib import prefill, scoring
from stages.lib.scoring import bits_per_byte, perplexity, token_losses
from tests.tiny import VOCABULARY, tiny_gpt2, tiny_llama, tiny_mistral

MODELS = {"llama": tiny_llama(), "gpt2": tiny_gpt2(), "mistral": tiny_mistral()}


RANDOM = np.random.default_rng(5)
LENGTHS = [(1, 3), (90, 1), (3, 40), (7, 2), (1, 1), (20, 5), (64, 12), (3, 3), (33, 7)]  # of prompt and completion
ROWS = [[RANDOM.integers(VOCABULARY, size=number).tolist() for number in pair] for pair in LENGTHS]


def losses(model, rows, batch_size: int) -> list[list[float]]:
    found = {}
    for places in prefill.batches([len(prompt) for prompt, _ in rows], batch_size):
        read = prefill.read(model, [rows[place][0] for place in places])
        found |= zip(places, token_losses(model, read, [rows[place][1] for place in places]), strict=True)
    return [found[place] for place in range(len(rows))]


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
    first = token_losses(model, read, [[5, 6], [7]])
    assert token_losses(model, read, [[5, 6], [7]]) == first


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
