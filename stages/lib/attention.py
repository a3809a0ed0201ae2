"""Attention over packed rows: each document of a row attends to itself alone.

On CUDA, transformers' own sdpa path isolates documents whose position_ids restart at 0. On a CPU the same mask costs
attention over the whole row (28 % of a step at 512 tokens and 70-token documents), so there each document is attended
to by itself: the same values, a fraction of the work.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

PACKED = "packed"


def implementation(where: torch.device) -> str:
    """The `attn_implementation` for packed rows on this device, registered with transformers."""
    if where.type != "cpu":
        return "sdpa"
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)
    return PACKED


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    document_lengths: Sequence[Sequence[int]],
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document.

    Args:
        query: (rows, heads, tokens, head size); key and value may have fewer heads (grouped-query attention).
        document_lengths: for each row the lengths of its documents, which together fill the row, padding included.

    Returns:
        (rows, tokens, heads, head size), and no attention weights.
    """
    if attention_mask is not None:
        raise ValueError("packed rows carry no attention mask: a mask of ones lets documents see each other")
    grouped = query.shape[1] != key.shape[1]
    window = getattr(module, "sliding_window", None)
    rows = []
    for row, lengths in enumerate(document_lengths):
        if window is not None and max(lengths) > window:
            raise ValueError(f"a document of {max(lengths)} tokens is longer than the model's window of {window}")
        parts = (tensor[row : row + 1].split(list(lengths), dim=2) for tensor in (query, key, value))
        documents = [
            scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)
            for q, k, v in zip(*parts, strict=True)
        ]
        rows.append(torch.cat(documents, dim=2))
    return torch.cat(rows).transpose(1, 2).contiguous(), None
