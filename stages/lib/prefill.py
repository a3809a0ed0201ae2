# LEAD TO helper-4: the lead wrote evaluate/scoring/generation/text_metrics/statistics/ending/logits while you were cut off.
# Keep those interfaces (merge.py uses ending.py + generation.generate + predictions columns tuned_answer/tuned_tokens/tuned_finish);
# drop prefill.py unless it fits behind them, adapt your tests to them, add the missing tests, finish quickly, delete these lines.
"""Read a batch of prompts once, for everything that a model is asked about them.

Scoring a reference and writing an answer both begin with the same prompt, and reading it is most of the work when
answers are short. On SmolLM2 with prompts of 80 tokens and answers of up to 48 this takes two thirds of the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

FILLER = 0  # the id where there is no token; never attended to, so any id will do, and no pad token is needed


@dataclass(frozen=True)
class Prefill:
    """Prompts, read up to but not including their last token: that one calls for whatever comes next."""

    ids: torch.Tensor  # (rows, length), filled up on the left, so that every prompt ends in the last column
    mask: torch.Tensor  # (rows, length): 1 at tokens, 0 at fillers
    cache: "Cache"  # what the model remembers of all columns but the last


def batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Places of `lengths` in batches of like length, the longest first: what memory cannot hold fails at once."""
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    return [order[start : start + size] for start in range(0, len(order), size)]


def read(model: "PreTrainedModel", prompts: Sequence[Sequence[int]]) -> Prefill:
    """Let the model read a batch of prompts, none of them empty."""
    from transformers import DynamicCache

    length = max(map(len, prompts))
    ids = torch.tensor([[FILLER] * (length - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    cache = DynamicCache(config=model.config)
    if length > 1:
        with torch.inference_mode():
            model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=positions(mask)[:, :-1],
                cache=cache,
                use_cache=True,
                logits_to_keep=1,
            )
    return Prefill(ids, mask, cache)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """The position of each token in its own row, as if there were no fillers."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
