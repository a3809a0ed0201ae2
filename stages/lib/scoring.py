"""How well a model foresees the reference answers, from which perplexity, bits per byte and calibration follow.

The loss that trainers report is a mean of batch means and moves with the batch size (from 2.99 to 4.98 on the same
rows and model; transformers #39241). Here each token's loss is kept, and a figure is a ratio of sums over all rows.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch

from stages.lib.errors import UserError
from stages.lib.prefill import FILLER, Prefill, positions

NOTHING = -1  # where a shorter completion has no token
LOGITS = 1 << 26  # held at once, 256 MiB in fp32: vocabularies are large, and answers may be long


class Foreseen(NamedTuple):
    """What a model held of the tokens of one completion, token by token."""

    nats: list[float]  # −ln p of the token that came
    confidence: list[float]  # p of the token that the model held likeliest
    hits: list[bool]  # whether that one came


def foresee(model: Any, prompts: Prefill, completions: Sequence[Sequence[int]]) -> list[Foreseen]:
    """What a model holds of every completion token after its prompt. `prompts` stay as they are.

    Args:
        model: the causal language model that has read the prompts.
        prompts: a batch of them.
        completions: token ids, one list a prompt, none empty.

    Raises:
        UserError: the model computes NaN or infinity.
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
    nats, confidence = (torch.empty(rows, width, dtype=torch.float64) for _ in range(2))
    hits = torch.empty(rows, width, dtype=torch.bool)
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
            held = logits.float().log_softmax(-1)
            wanted = targets[:, part].clamp(min=0).unsqueeze(-1)
            likeliest, place = held.max(-1)
            nats[:, part] = -held.gather(-1, wanted).squeeze(-1).double().cpu()
            confidence[:, part] = likeliest.exp().double().cpu()
            hits[:, part] = (place == targets[:, part]).cpu()
    if not all(nats[row, : len(one)].isfinite().all() for row, one in enumerate(completions)):
        raise UserError(
            "the model gives no finite likelihoods: it computes with NaN or infinity. Set evaluate.precision to fp32; "
            "if that does not help, its weights are broken: lower train.lr and `dvc repro -f train`."
        )
    return [
        Foreseen(*(values[row, : len(one)].tolist() for values in (nats, confidence, hits)))
        for row, one in enumerate(completions)
    ]
