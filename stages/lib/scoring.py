# LEAD TO helper-4: the lead wrote evaluate/scoring/generation/text_metrics/statistics/ending/logits while you were cut off.
# Keep those interfaces (merge.py uses ending.py + generation.generate + predictions columns tuned_answer/tuned_tokens/tuned_finish);
# drop prefill.py unless it fits behind them, adapt your tests to them, add the missing tests, finish quickly, delete these lines.
"""How well a model foresees the reference answers: nats per row, from which perplexity and bits per byte follow.

Sums, not means: a mean of batch means moves with the batch size (transformers #39241), a ratio of sums does not.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from stages.lib.logits import logits_at


@dataclass(frozen=True)
class Foreseen:
    """One completion as a model foresees it."""

    nats: float  # negative log-likelihood of every completion token, the end token included
    text_nats: float  # the same without the end tokens, which stand for no bytes
    tokens: int  # the end token included


def score(
    model: Any,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    stop_ids: Iterable[int],
    batch_size: int,
    label: str = "score",
) -> list[Foreseen]:
    """Score completions given their prompts.

    Args:
        model: a causal language model in eval mode.
        rows: (prompt ids, completion ids), neither empty.
        stop_ids: tokens that end an answer.
        batch_size: rows per forward pass; it changes the speed, not the result.
        label: of the progress bar.

    Returns:
        One result a row, in the order of `rows`.
    """
    ends = frozenset(stop_ids)
    found: dict[int, Foreseen] = {}
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index][0]) + len(rows[index][1]))
    with tqdm(total=len(rows), desc=label, unit="row", disable=None) as bar:
        for start in range(0, len(rows), batch_size):
            places = by_length[start : start + batch_size]
            for place, nats in zip(places, _nats(model, [rows[place] for place in places]), strict=True):
                completion = rows[place][1]
                ended = _trailing(completion, ends)
                found[place] = Foreseen(math.fsum(nats), math.fsum(nats[: len(nats) - ended]), len(completion))
            bar.update(len(places))
    return [found[place] for place in range(len(rows))]


def _nats(model: Any, batch: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
    """Negative log-likelihood of each completion token, in float32 whatever the model computes in."""
    width = max(len(prompt) + len(completion) for prompt, completion in batch)
    shape = (len(batch), width)
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    wanted = torch.zeros(shape, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(batch):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor([*prompt, *completion])
        mask[row, :end] = 1
        wanted[row, len(prompt) - 1 : end - 1] = True
    ids, mask, wanted = (tensor.to(model.device) for tensor in (ids, mask, wanted))
    targets = ids[:, 1:][wanted[:, :-1]]
    with torch.inference_mode():
        logits = logits_at(model, wanted, input_ids=ids, attention_mask=mask)
        nats = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").tolist()
    each = iter(nats)
    return [[next(each) for _ in completion] for _, completion in batch]


def _trailing(ids: Sequence[int], ends: frozenset[int]) -> int:
    """How many tokens at the end of `ids` only end the answer."""
    count = 0
    while count < len(ids) and ids[len(ids) - 1 - count] in ends:
        count += 1
    return count
