# LEAD TO helper-4: the lead wrote evaluate/scoring/generation/text_metrics/statistics/ending/logits while you were cut off.
# Keep those interfaces (merge.py uses ending.py + generation.generate + predictions columns tuned_answer/tuned_tokens/tuned_finish);
# drop prefill.py unless it fits behind them, adapt your tests to them, add the missing tests, finish quickly, delete these lines.
"""Greedy answers in batches, the same as one by one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from stages.lib.ending import Stops


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str
    finish: str  # "stop" if it ended by itself, "length" if it was cut
    tokens: int


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stops: Stops,
    decode: Callable[[Sequence[int]], str],
    batch_size: int,
    max_new_tokens: int,
    label: str = "generate",
) -> list[Answer]:
    """Answer prompts greedily.

    Prompts are sorted by length, so that a batch holds little padding, and padded on the left, so that every answer
    starts in the same column. The model's own generation settings (sampling, penalties) play no part.

    Args:
        model: a causal language model in eval mode.
        prompts: token ids, none empty.
        stops: where an answer ends.
        decode: turns the ids of an answer into text.
        batch_size: prompts per forward pass; it changes the speed, not the answers (in float32).
        max_new_tokens: an answer is cut after so many.
        label: of the progress bar.

    Returns:
        One answer a prompt, in the order of `prompts`.
    """
    from transformers import GenerationConfig

    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stops.ids) or None,
        pad_token_id=_padding(stops.ids),
        use_cache=True,
    )
    found: dict[int, Answer] = {}
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    with tqdm(total=len(prompts), desc=label, unit="row", disable=None) as bar:
        for start in range(0, len(prompts), batch_size):
            places = by_length[start : start + batch_size]
            written = _continue(model, [prompts[place] for place in places], settings)
            for place, ids in zip(places, written, strict=True):
                found[place] = _answer(ids, stops, decode)
            bar.update(len(places))
    return [found[place] for place in range(len(prompts))]


def _padding(stop_ids: Iterable[int]) -> int:
    """Any id will do: it only stands where the attention mask is 0, or after a stop."""
    return next(iter(stop_ids), 0)


def _continue(model: Any, prompts: Sequence[Sequence[int]], settings: Any) -> list[list[int]]:
    """The ids that follow each prompt, stops and padding behind them included."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), settings.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
        )
    return out[:, width:].tolist()


def _answer(ids: Sequence[int], stops: Stops, decode: Callable[[Sequence[int]], str]) -> Answer:
    """Cut at the first stop, by id or by text."""
    end = next((place for place, token in enumerate(ids) if token in stops.ids), None)
    text = decode(ids[:end])
    cuts = [place for stop in stops.texts if (place := text.find(stop)) >= 0]
    finished = end is not None or bool(cuts)
    return Answer(
        text=text[: min(cuts)] if cuts else text,
        finish="stop" if finished else "length",
        tokens=len(ids) if end is None else end,
    )
