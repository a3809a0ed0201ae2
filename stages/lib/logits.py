"""Logits at chosen positions only: with a vocabulary of 50,000 pieces the rest would be most of the memory."""

from typing import Any

import torch


def logits_at(model: Any, wanted: torch.Tensor, *, through: Any = None, **inputs: Any) -> torch.Tensor:
    """Run a causal model and project only the `wanted` positions through its head.

    The hidden states are picked by a hook before the head, so everything that a model does to its logits afterwards
    (Gemma's soft cap, Cohere's scale) still happens in its own code.

    Args:
        model: a causal language model, with or without an adapter.
        wanted: (rows, tokens), true where the next token is to be predicted.
        through: what to call in the model's place, for what is wrapped around it (DDP prepares its gradients there).
        **inputs: what the model's forward takes.

    Returns:
        (number of wanted positions, vocabulary), row by row.
    """

    def pick(_: torch.nn.Module, hidden: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (hidden[0][wanted].unsqueeze(0),)

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        return (model if through is None else through)(**inputs, use_cache=False).logits[0]
    finally:
        hook.remove()
