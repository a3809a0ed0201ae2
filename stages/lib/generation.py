"""Answers: what a model writes after a prompt, in batches: always the likeliest token (greedy), or drawn by a seed.

A batch gives the texts that its prompts get one by one: they are filled up on the left, and fillers are told apart by
mask and position, so the pad token plays no part (it is the end token in many bases).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import xxhash
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TopPLogitsWarper,
)

from stages.lib.ending import Stops
from stages.lib.prefill import FILLER, Prefill, batches, read

Decode = Callable[[Sequence[int]], str]


class Answer(NamedTuple):
    """What a model wrote, without what ended it."""

    text: str
    finish: str  # "stop" if it ended by itself, "length" if it was cut off
    tokens: int


class Sampling(NamedTuple):
    """How tokens are drawn, where not the likeliest is taken."""

    temperature: float  # above 0
    top_p: float  # of the likeliest tokens that have this probability together (Holtzman et al. 2019)
    seed: int

    @classmethod
    def of(cls, temperature: float, top_p: float, seed: int) -> "Sampling | None":
        """As params.yaml has it, where a temperature of 0 means that nothing is drawn."""
        return cls(temperature, top_p, seed) if temperature else None


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stops: Stops,
    decode: Decode,
    batch_size: int,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    done: Callable[[int], Any] = lambda _: None,
) -> list[Answer]:
    """Answer prompts.

    Args:
        model: a causal language model in eval mode.
        prompts: token ids, none empty.
        stops: where an answer ends.
        decode: turns the ids of an answer into text.
        batch_size: prompts per forward pass; it changes the speed, not the answers (in fp32).
        max_new_tokens: an answer is cut off after so many.
        sampling: how tokens are drawn; None takes the likeliest.
        done: is told after each batch how many prompts were answered.

    Returns:
        One answer a prompt, in the order of `prompts`.
    """
    answers: dict[int, Answer] = {}
    for places in batches([len(prompt) for prompt in prompts], batch_size):
        prefill = read(model, [prompts[place] for place in places])
        written = write_on(model, prefill, stops, decode, max_new_tokens, sampling)
        answers.update(zip(places, written, strict=True))
        done(len(places))
    return [answers[place] for place in range(len(prompts))]


def write_on(
    model: Any, prompts: Prefill, stops: Stops, decode: Decode, max_new_tokens: int, sampling: Sampling | None = None
) -> list[Answer]:
    """Answer one batch of prompts that the model has read. It uses up their cache.

    What is left open here, `generate` takes from the model's own settings: `models` loads every base without any.
    """
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stops.ids) or None,
        pad_token_id=FILLER,  # what follows an answer that has ended; it is not looked at
        use_cache=True,
    )
    start = prompts.ids.shape[1]
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model  # a PEFT model wraps the real one
    with torch.inference_mode():
        written = bare.generate(
            input_ids=prompts.ids,
            attention_mask=prompts.mask,
            cache=prompts.cache,
            generation_config=settings,
            logits_processor=LogitsProcessorList([_Draw(sampling, prompts)] if sampling else []),
            stopping_criteria=StoppingCriteriaList([_Said(stops, decode, start)] if stops.texts else []),
        )
    return [_answer(ids, stops, decode) for ids in written[:, start:].tolist()]


class _Draw(LogitsProcessor):
    """Draw tokens by making each the likeliest: with Gumbel noise on the logits (E. J. Gumbel, 1954).

    A row's noise depends on seed and prompt alone, so neither order nor batch changes an answer. What `generate` draws
    by itself comes from one stream for all.
    """

    def __init__(self, sampling: Sampling, prompts: Prefill) -> None:
        self._temperature = sampling.temperature
        self._likeliest = TopPLogitsWarper(sampling.top_p)
        self._streams = [
            torch.Generator().manual_seed(_number(sampling.seed, ids[mask == 1].tolist()))
            for ids, mask in zip(prompts.ids, prompts.mask, strict=True)
        ]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        kept: Any = self._likeliest(input_ids, scores / self._temperature)  # type: ignore[arg-type]
        waits = torch.stack([torch.empty(kept.shape[1]).exponential_(generator=stream) for stream in self._streams])
        return kept - waits.log().to(kept.device)


class _Said(StoppingCriteria):
    """Stop where an answer holds one of the texts that end it: no single token would tell."""

    def __init__(self, stops: Stops, decode: Decode, start: int) -> None:
        self._stops, self._decode, self._start = stops, decode, start

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> torch.BoolTensor:
        said = [self._decode(ids) for ids in input_ids[:, self._start :].tolist()]
        over = [any(end in text for end in self._stops.texts) for text in said]
        return torch.tensor(over, device=input_ids.device)  # type: ignore[return-value]


def _number(seed: int, ids: Sequence[int]) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}:{ids}".encode()) >> 1  # torch takes 63 bits


def _answer(ids: list[int], stops: Stops, decode: Decode) -> Answer:
    """What stands before the first end, be it a token or a text."""
    end = next((place for place, token in enumerate(ids) if token in stops.ids), None)
    text = decode(ids[:end])
    cut = min((place for place in map(text.find, stops.texts) if place >= 0), default=None)
    if cut is not None:
        tokens = next(count for count in range(len(ids) + 1) if len(decode(ids[:count])) >= cut)
        return Answer(text[:cut], "stop", tokens)
    return Answer(text, "length" if end is None else "stop", len(ids[:end]))
