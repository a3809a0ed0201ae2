# LEAD TO helper-4: the lead wrote evaluate/scoring/generation/text_metrics/statistics/ending/logits while you were cut off.
# Keep those interfaces (merge.py uses ending.py + generation.generate + predictions columns tuned_answer/tuned_tokens/tuned_finish);
# drop prefill.py unless it fits behind them, adapt your tests to them, add the missing tests, finish quickly, delete these lines.
"""Generation: a batch writes what each prompt alone would get, and stops where the template says."""

import random

import pytest
import torch
from transformers import GenerationConfig

from stages.lib.generation import Answer, Stops, answer
from stages.lib.tokens import SegmentTokenizer
from tests.bases import byte_level
from tests.tiny import tiny_gpt2, tiny_llama

TOKENIZER = SegmentTokenizer(byte_level("<|endoftext|>", "<|im_end|>"))
EOS, IM_END = 0, 1
SIZE = TOKENIZER.vocabulary if hasattr(TOKENIZER, "vocabulary") else 400
MODELS = {"llama": tiny_llama(), "gpt2": tiny_gpt2(), "windowed": tiny_llama(seed=3)}
RANDOM = random.Random(9)
PROMPTS = [[RANDOM.randrange(2, 300) for _ in range(length)] for length in (3, 90, 1, 17, 90, 40, 2, 5)]
NEVER = Stops(ids=(), texts=())


def by_the_book(model, prompt: list[int], number: int) -> list[int]:
    """The likeliest token, one after the other, each out of a whole forward pass."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(number):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_batched_answers_equal_single_ones(model):
    """Field fault 24: prompts of 3 and 90 tokens together. Fillers need no pad token, so pad = eos is no case."""
    single = [Answer(TOKENIZER.decode(by_the_book(model, prompt, 12)), "length") for prompt in PROMPTS]
    for batch_size in (1, 3, 8):
        assert answer(model, TOKENIZER, PROMPTS, NEVER, 12, batch_size) == single
