"""The fast layer is peft's layer: the same values, gradients and random numbers."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from stages.lib import low_rank
from tests import tiny

IDS = torch.arange(24).view(2, 12)


def adapted(make: Any, **settings: Any) -> Any:
    """A peft model whose adapter does something."""
    config = {"r": 3, "lora_alpha": 7, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(make(initializer_range=0.2), LoraConfig(**config)).train()
    draw = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=draw) / 10
    return model


def outcome(model: Any, compute: torch.dtype = torch.float32) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradient of each weight that learns."""
    torch.manual_seed(2)
    with torch.autocast("cpu", dtype=compute, enabled=compute != torch.float32):
        logits = model(input_ids=IDS, use_cache=False).logits.float()
        logits.logsumexp(-1).sum().backward()
    return logits.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


def fast(model: Any) -> Any:
    model = copy.deepcopy(model)
    low_rank.speed_up(model)
    return model


def layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, low_rank.LowRankLinear)]


def ran_fast(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts calls of the fast way."""
    calls: list[int] = []
    original = low_rank._LowRank.apply
    monkeypatch.setattr(low_rank._LowRank, "apply", lambda *given: calls.append(1) or original(*given))
    return calls


@pytest.mark.parametrize("make", [tiny.tiny_llama, tiny.tiny_gpt2, tiny.tiny_qwen2], ids=["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("settings", [{}, {"lora_dropout": 0.3}, {"use_rslora": True}], ids=str)
def test_values_and_gradients_are_those_of_peft(
    make: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain and biased layers, Conv1D, and dropout that draws the same numbers."""
    model = adapted(make, **settings)
    calls = ran_fast(monkeypatch)

    logits, gradients = outcome(fast(model))
    assert len(calls) == len(layers(fast(model))) > 0
    expected, expected_gradients = outcome(model)

    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-4, rtol=1e-4, msg=name)


def test_in_half_precision_it_is_as_near_to_the_truth_as_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of the base in bf16, of the adapter in fp32, as training on a GPU has them."""
    model = adapted(tiny.tiny_llama)
    _, truth = outcome(model)
    for name, weight in model.named_parameters():
        weight.grad = None
        if "lora" not in name:
            weight.data = weight.data.bfloat16()
    calls = ran_fast(monkeypatch)

    _, ours = outcome(fast(model), torch.bfloat16)
    assert calls
    _, theirs = outcome(model, torch.bfloat16)

    for name, expected in truth.items():
        assert ours[name].dtype == torch.float32
        assert (ours[name] - expected).norm() < 1.5 * (theirs[name] - expected).norm() + 0.01 * expected.norm(), name


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"lora_bias": True}, {"bias": "all"}],
    ids=str,
)
def test_what_is_not_plain_is_left_to_peft(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(tiny.tiny_qwen2, **settings)
    calls = ran_fast(monkeypatch)

    logits, gradients = outcome(fast(model))
    expected, expected_gradients = outcome(model)

    biased = 6  # queries, keys and values of two layers: of Qwen2's layers the others have no bias that could learn
    assert len(calls) == (len(layers(fast(model))) - biased if "bias" in settings else 0)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-4, rtol=1e-4, msg=name)


def test_an_adapter_that_is_switched_off_or_merged_is_not_counted() -> None:
    model = fast(adapted(tiny.tiny_llama)).eval()
    with torch.no_grad():
        tuned = model(input_ids=IDS).logits
        with model.disable_adapter():
            base = model(input_ids=IDS).logits
        model.merge_adapter()
        merged = model(input_ids=IDS).logits

    assert (tuned - base).abs().max() > 0.1
    torch.testing.assert_close(merged, tuned, atol=1e-4, rtol=1e-4)


def test_layers_in_four_bits_stay_as_they_are() -> None:
    from bitsandbytes.nn import Linear4bit

    model = torch.nn.Sequential(Linear4bit(64, 64), torch.nn.Linear(64, 64))
    adapted = get_peft_model(model, LoraConfig(target_modules=["0", "1"]))
    low_rank.speed_up(adapted)

    assert [type(layer.get_base_layer()) for layer in layers(adapted)] == [torch.nn.Linear]
