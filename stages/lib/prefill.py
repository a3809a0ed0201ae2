"""Read a batch of prompts once, for everything that a model is asked about them.

To score a reference and to write an answer, a model has to read the same prompt, and where answers are short that is
most of the work. Reading once saves a quarter of the time (SmolLM2-135M, prompts of 80 tokens, answers of up to 48).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import Cache

FILLER = 0  # the id where there is no token; it is never attended to, so any will do, and no pad token is needed


@dataclass(frozen=True)
class Prefill:
    """Prompts, read up to their last token: reading that one foretells the first token of whatever follows."""

    ids: torch.Tensor  # (rows, length), filled up on the left: every prompt ends in the last column
    mask: torch.Tensor  # (rows, length), 1 at tokens and 0 at fillers
    cache: "Cache"  # what the model keeps of every column but the last


def batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Places in `lengths`, in batches of like length. The longest come first: what memory cannot hold fails at once."""
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    return [order[start : start + size] for start in range(0, len(order), size)]


def read(model: Any, prompts: Sequence[Sequence[int]]) -> Prefill:
    """Let a causal language model read prompts, none of them empty."""
    from transformers import DynamicCache

    width = max(map(len, prompts))
    ids = torch.tensor([[FILLER] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    cache = DynamicCache(config=model.config)
    if width > 1:
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
    """Each token's position in its own row, where fillers do not count."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
