"""Tiny models with random weights, of common builds. Wide weights: the likeliest token is never a near tie."""

from typing import Any

VOCABULARY = 400


def tiny_llama(seed: int = 0, vocabulary: int = VOCABULARY, initializer_range: float = 0.5, **settings: Any) -> Any:
    """Rotary positions, grouped-query attention, a head tied to the embedding."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=initializer_range,
        **settings,
    )
    return LlamaForCausalLM(config).eval()


def tiny_gpt2(seed: int = 0, vocabulary: int = VOCABULARY, initializer_range: float = 0.5, **settings: Any) -> Any:
    """Learned positions, Conv1D instead of Linear."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=512,
        initializer_range=initializer_range,
        **settings,
    )
    return GPT2LMHeadModel(config).eval()


def tiny_mistral(seed: int = 0, vocabulary: int = VOCABULARY, window: int = 8) -> Any:
    """Attention to the last `window` tokens only, so that the cache forgets."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        sliding_window=window,
        initializer_range=0.5,
    )
    return MistralForCausalLM(config).eval()
