"""How well a model foresees the reference answers, from which perplexity and bits per byte follow.

The loss that trainers report is a mean of batch means and moves with the batch size (from 2.99 to 4.98 on the same
rows and model; transformers #39241). Here each token's loss is kept, and a figure is a ratio of sums over all rows.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from stages.lib.prefill import FILLER, Prefill, positions

NOTHING = -100  # cross_entropy's mark for a target that does not count
LOGITS = 1 << 26  # held at once, 256 MiB in fp32: vocabularies are large, and answers may be long


def token_losses(model: Any, prompts: Prefill, completions: Sequence[Sequence[int]]) -> list[list[float]]:
    """−ln p of every completion token after its prompt, in nats. `prompts` stay as they are.

    Args:
        model: the causal language model that has read the prompts.
        prompts: a batch of them.
        completions: token ids, one list a prompt, none empty.
    """
    rows, width = len(completions), max(map(len, completions))
    targets = torch.tensor([[*one, *[NOTHING] * (width - len(one))] for one in completions], device=prompts.ids.device)
    # The last token of a prompt foretells the first of its completion, that one the second, and so on.
    inputs = torch.cat([prompts.ids[:, -1:], targets[:, :-1]], dim=1)
    mask = torch.cat([prompts.mask, (targets[:, :-1] != NOTHING).long()], dim=1)
    inputs = inputs.masked_fill(inputs == NOTHING, FILLER)
    known = prompts.ids.shape[1] - 1  # columns that the cache holds
    places = positions(mask)[:, known:]
    cache = deepcopy(prompts.cache)
    losses = torch.empty(rows, width, dtype=torch.float64)
    step = max(1, LOGITS // (rows * model.config.get_text_config().vocab_size))
    with torch.inference_mode():
        for start in range(0, width, step):
            part = slice(start, start + step)
            logits = model(
                input_ids=inputs[:, part],
                attention_mask=mask[:, : known + start + step],
                position_ids=places[:, part],
                cache=cache,
                use_cache=True,
            ).logits
            # In fp32 whatever the model computes in: bf16 has three digits, too few for a sum over thousands.
            found = cross_entropy(logits.flatten(0, 1).float(), targets[:, part].flatten(), reduction="none")
            losses[:, part] = found.view(rows, -1).double().cpu()
    return [row[: len(one)].tolist() for row, one in zip(losses, completions, strict=True)]


def perplexity(nats: NDArray[np.float64], tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """The exponential of a token's loss, out of sums over rows: 1 is certainty. NaN where there are no tokens."""
    with np.errstate(all="ignore"):
        return np.exp(nats / tokens)


def bits_per_byte(nats: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits that a model needs for each byte of text, out of sums over rows: comparable between tokenizers."""
    with np.errstate(all="ignore"):
        return nats / size / math.log(2)
