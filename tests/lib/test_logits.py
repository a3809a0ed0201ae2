"""Logits at chosen positions are those of the whole, and the model is left as it was."""

import pytest
import torch

from stages.lib.logits import logits_at
from tests import tiny


@pytest.mark.parametrize("make", [tiny.tiny_llama, tiny.tiny_gpt2, tiny.tiny_qwen2])
def test_chosen_positions_have_the_logits_of_a_full_pass(make) -> None:
    model, ids = make(), torch.arange(24).view(2, 12)
    wanted = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)) < 0.4

    with torch.no_grad():
        whole = model(input_ids=ids).logits
        some = logits_at(model, wanted, input_ids=ids)
        again = model(input_ids=ids).logits

    torch.testing.assert_close(some, whole[wanted])
    assert torch.equal(again, whole)


def test_what_a_model_does_to_its_logits_still_happens() -> None:
    """Gemma 2 caps its logits after the head; picking before the head must not lose that."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 1.0}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, **heads, final_logit_softcapping=2.0)).eval()
    ids = torch.arange(8)[None]

    with torch.no_grad():
        some = logits_at(model, torch.ones(1, 8, dtype=torch.bool), input_ids=ids)
        torch.testing.assert_close(some, model(input_ids=ids).logits[0])

    assert float(some.abs().max()) <= 2.0


def test_no_position_wanted_gives_no_logits() -> None:
    assert logits_at(
        tiny.tiny_llama(), torch.zeros(1, 4, dtype=torch.bool), input_ids=torch.ones(1, 4).long()
    ).shape == (0, 400)
