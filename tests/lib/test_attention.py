"""Packed rows: a document computes what it computes alone, and no other document can change that."""

from typing import Any

import pytest
import torch

from stages.lib import attention
from stages.lib.logits import logits_at
from stages.lib.trainer import IGNORED, PackedCollator
from tests import tiny

FAMILIES = {"llama": tiny.tiny_llama, "gpt2": tiny.tiny_gpt2, "qwen2": tiny.tiny_qwen2}
LENGTHS = [[5, 9, 2], [7, 4]]  # two rows; the second is filled up


def packed_model(family: str) -> Any:
    model = FAMILIES[family]()
    model.set_attn_implementation(attention.implementation(torch.device("cpu")))
    return model.eval()


def documents() -> list[list[list[int]]]:
    draw = torch.Generator().manual_seed(3)
    return [[torch.randint(0, 400, (length,), generator=draw).tolist() for length in row] for row in LENGTHS]


def row(parts: list[list[int]]) -> dict[str, Any]:
    labels = [label for part in parts for label in [IGNORED, *part[1:]]]
    return {
        "input_ids": [token for part in parts for token in part],
        "labels": labels,
        "seq_lengths": [len(part) for part in parts],
    }


def nats(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    inputs = dict(batch)
    targets = inputs.pop("labels")[:, 1:]
    wanted = torch.nn.functional.pad(targets != IGNORED, (0, 1))
    logits = logits_at(model, wanted, **inputs)
    return torch.nn.functional.cross_entropy(logits, targets[targets != IGNORED], reduction="sum")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_batch_has_the_loss_and_gradients_of_its_documents_alone(family: str) -> None:
    model, collate = packed_model(family), PackedCollator(pad_id=0)
    rows = documents()

    together = nats(model, collate([row(parts) for parts in rows]))
    together.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    plain = FAMILIES[family]()  # the same seed, attention as the library has it
    alone = torch.zeros(())
    for part in (part for parts in rows for part in parts):
        logits = plain(input_ids=torch.tensor([part])).logits[0, :-1]
        alone = alone + torch.nn.functional.cross_entropy(logits, torch.tensor(part[1:]), reduction="sum")
    alone.backward()

    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    for name, weight in plain.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_changing_one_document_changes_no_other(family: str) -> None:
    model, collate = packed_model(family), PackedCollator(pad_id=0)
    first, second, third = documents()[0]
    everywhere = torch.ones(1, 16, dtype=torch.bool)

    def logits(middle: list[int]) -> torch.Tensor:
        batch = collate([row([first, middle, third])])
        batch.pop("labels")
        return logits_at(model, everywhere, **batch).detach()

    before, after = logits(second), logits([399 - token for token in second])

    outside = [*range(5), 14, 15]
    assert torch.equal(before[outside], after[outside])
    assert not torch.allclose(before[5:14], after[5:14])


def test_padding_is_a_document_of_its_own() -> None:
    batch = PackedCollator(pad_id=9)([row(parts) for parts in documents()])

    assert batch["input_ids"][1, 11:].tolist() == [9] * 5
    assert batch["labels"][1, 11:].tolist() == [IGNORED] * 5
    assert batch["position_ids"][1].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert batch["document_lengths"] == [[5, 9, 2], [7, 4, 5]]
    assert "attention_mask" not in batch


def test_a_mask_is_refused_because_documents_would_see_each_other() -> None:
    tensor = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match="no attention mask"):
        attention.packed_attention(torch.nn.Module(), tensor, tensor, tensor, torch.ones(1, 1, 4, 4), [[4]])


def test_a_document_longer_than_the_models_window_is_refused() -> None:
    module, tensor = torch.nn.Module(), torch.zeros(1, 2, 4, 8)
    module.sliding_window = 3
    with pytest.raises(ValueError, match="longer than the model's window"):
        attention.packed_attention(module, tensor, tensor, tensor, None, [[4]])
