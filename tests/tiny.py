"""Tiny models with random weights, of common builds. Wide weights: the likeliest token is never a near tie."""

from typing import Any

VOCABULARY = 400


def _grouped_query(family: str, seed: int, vocabulary: int, *, config: str = "", **settings: Any) -> Any:
    """Rotary positions, two heads of keys and values for four of queries."""
    import torch
    import transformers

    torch.manual_seed(seed)
    built = getattr(transformers, f"{config or family}Config")(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        **settings,
    )
    return getattr(transformers, f"{family}ForCausalLM")(built).eval()


def tiny_llama(seed: int = 0, vocabulary: int = VOCABULARY, initializer_range: float = 0.5, **settings: Any) -> Any:
    """A head tied to the embedding."""
    settings = {"tie_word_embeddings": True, "initializer_range": initializer_range} | settings
    return _grouped_query("Llama", seed, vocabulary, **settings)


def tiny_qwen2(seed: int = 0, vocabulary: int = VOCABULARY, initializer_range: float = 0.5, **settings: Any) -> Any:
    """Biased projections, a head tied to the embedding."""
    settings = {"tie_word_embeddings": True, "initializer_range": initializer_range} | settings
    return _grouped_query("Qwen2", seed, vocabulary, **settings)


def tiny_mistral(seed: int = 0, vocabulary: int = VOCABULARY, window: int = 8) -> Any:
    """Attention to the last `window` tokens only, so that the cache forgets."""
    return _grouped_query("Mistral", seed, vocabulary, sliding_window=window, initializer_range=0.5)


def tiny_qwen3(seed: int = 0) -> Any:
    """Queries and keys that are normalised, in heads of a size of their own."""
    return _grouped_query("Qwen3", seed, VOCABULARY, head_dim=16, initializer_range=0.5)


def tiny_gemma(seed: int = 0) -> Any:
    """Scaled embeddings, norms that add one to their weight."""
    return _grouped_query("Gemma", seed, VOCABULARY, head_dim=16, initializer_range=0.5)


def tiny_gemma2(seed: int = 0, window: int = 4) -> Any:
    """A soft cap on the attention scores, which sdpa does not have; every other layer sees a window only."""
    capped = {"attn_logit_softcapping": 2.0, "sliding_window": window}
    return _grouped_query("Gemma2", seed, VOCABULARY, head_dim=8, initializer_range=0.5, **capped)  # type: ignore[arg-type]


def tiny_gemma3(seed: int = 0, window: int = 4, **settings: Any) -> Any:
    """A layer with a window, a layer without, each with rotary positions of its own."""
    settings = {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 8} | settings
    settings |= {"sliding_window": window, "initializer_range": 0.5}
    return _grouped_query("Gemma3", seed, VOCABULARY, config="Gemma3Text", **settings)


def tiny_phimoe(seed: int = 0, window: int = 4) -> Any:
    """A window that attention is never told, only its mask."""
    return _grouped_query("Phimoe", seed, VOCABULARY, sliding_window=window, num_local_experts=4, initializer_range=0.5)


def tiny_stablelm(seed: int = 0) -> Any:
    """Attention that is part of the model's code and cannot be exchanged."""
    return _grouped_query("StableLm", seed, VOCABULARY, initializer_range=0.5)


def tiny_lfm2(seed: int = 0) -> Any:
    """A short convolution over the sequence beside attention."""
    return _grouped_query("Lfm2", seed, VOCABULARY, layer_types=["conv", "full_attention"], initializer_range=0.5)


def tiny_bloom(seed: int = 0) -> Any:
    """Distances instead of positions (ALiBi)."""
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(seed)
    return BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)).eval()


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
