"""Attention over packed rows: each document of a row attends to itself alone.

transformers' own attention isolates documents whose position_ids restart at 0, for most models. On a CPU its mask costs
attention over the whole row (28 % of a step at 512 tokens and 70-token documents), so there each document is attended
to by itself: the same values, a fraction of the work. A probe decides whether a model keeps documents apart.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from stages.lib.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED = "packed"


class Unsupported(Exception):
    """The model's attention does something that `packed_attention` cannot."""


def prepare(model: "PreTrainedModel", *, packs: bool) -> None:
    """Give `model` the fastest attention that is right for packed rows.

    Args:
        model: as transformers loaded it.
        packs: whether any row holds more than one document.

    Raises:
        UserError: when documents would see each other, as in linear attention, convolutions, or without positions.
    """
    own = model.config._attn_implementation
    if model.device.type == "cpu" and model._supports_attention_backend:
        from transformers import AttentionInterface

        AttentionInterface.register(PACKED, packed_attention)
        model.set_attn_implementation(PACKED)
        try:
            if _documents_stay_apart(model):
                return
        except Unsupported:
            pass
        model.set_attn_implementation(own)
    if packs and not _documents_stay_apart(model):
        raise UserError(
            f"params.yaml: tokenize.pack is true, but in {type(model).__name__} the examples of a packed row would see "
            "each other. Set tokenize.pack to false, or choose another base."
        )


def is_packed(model: "PreTrainedModel") -> bool:
    """Whether the model's forward wants `document_lengths`."""
    return model.config._attn_implementation == PACKED


def _documents_stay_apart(model: "PreTrainedModel") -> bool:
    """Whether a document's logits stay the same when the one before it in the row is another."""
    lengths = [5, 7]
    one, other = (
        _logits(model, [*first, 3, 1, 4, 1, 5, 9, 2], lengths) for first in ([1, 2, 3, 4, 5], [9, 8, 7, 6, 5])
    )
    # A leak moves logits by whole units; what rounding moves, in mixtures of experts, stays far below.
    rounding = 0.02 if model.dtype != torch.float32 else 1e-3
    return bool((one - other).abs().max() <= rounding * one.abs().max())


def _logits(model: "PreTrainedModel", ids: list[int], lengths: list[int]) -> torch.Tensor:
    """(tokens, vocabulary) of the last document in a row."""
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([ids], device=model.device),
        "position_ids": torch.tensor([[place for length in lengths for place in range(length)]], device=model.device),
    }
    if is_packed(model):
        inputs["document_lengths"] = [lengths]
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits[0, -lengths[-1] :].float()


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    document_lengths: Sequence[Sequence[int]],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document.

    Args:
        query: (rows, heads, tokens, head size); key and value may have fewer heads (grouped-query attention).
        document_lengths: for each row the lengths of its documents, which together fill the row, padding included.
        sliding_window: a token attends to itself and to this many tokens before it, less one.

    Returns:
        (rows, tokens, heads, head size), and no attention weights.

    Raises:
        Unsupported: for a soft cap on the scores (Gemma 2) and attention sinks (GPT-OSS).
    """
    if attention_mask is not None:
        raise ValueError("packed rows carry no attention mask: a mask of ones lets documents see each other")
    if softcap is not None or s_aux is not None:
        raise Unsupported("scaled_dot_product_attention has neither soft cap nor sinks")
    grouped = query.shape[1] != key.shape[1]
    window = sliding_window if sliding_window is not None else getattr(module, "sliding_window", None)
    rows = []
    for row, lengths in enumerate(document_lengths):
        parts = (tensor[row : row + 1].split(list(lengths), dim=2) for tensor in (query, key, value))
        documents = [
            scaled_dot_product_attention(
                *(q, k, v), **_causal(q.shape[2], window), dropout_p=dropout, scale=scaling, enable_gqa=grouped
            )
            for q, k, v in zip(*parts, strict=True)
        ]
        rows.append(torch.cat(documents, dim=2))
    return torch.cat(rows).transpose(1, 2).contiguous(), None


def _causal(length: int, window: int | None) -> dict[str, Any]:
    """What makes attention over `length` tokens look back, and no further than the window."""
    if window is None or length <= window:
        return {"is_causal": True}
    every = torch.ones(length, length, dtype=torch.bool)
    return {"attn_mask": every.tril() & every.triu(1 - window)}
