"""Packed rows: a document computes what it computes alone, and no other document can change that."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from stages.lib import attention
from stages.lib.errors import UserError
from stages.lib.logits import logits_at
from stages.lib.trainer import IGNORED, PackedCollator
from tests import tiny

FAMILIES = {
    "llama": tiny.tiny_llama,
    "gpt2": tiny.tiny_gpt2,
    "qwen2": tiny.tiny_qwen2,
    "mistral": partial(tiny.tiny_mistral, window=4),  # most of the documents are longer
    "gemma2": tiny.tiny_gemma2,  # caps its scores, so it keeps its own attention
    "stablelm": tiny.tiny_stablelm,  # written before attention could be exchanged
}
LENGTHS = [[5, 9, 2], [7, 4]]  # two rows; the second is filled up


def packed_model(family: str) -> Any:
    model = FAMILIES[family]()
    attention.prepare(model, packs=True)
    return model.eval()


def ready(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """What the trainer passes on."""
    wanted = {"input_ids", "position_ids"} | ({"document_lengths"} if attention.is_packed(model) else set())
    return {name: value for name, value in batch.items() if name in wanted}


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
    targets = batch["labels"][:, 1:]
    wanted = torch.nn.functional.pad(targets != IGNORED, (0, 1))
    logits = logits_at(model, wanted, **ready(model, batch))
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
        return logits_at(model, everywhere, **ready(model, batch)).detach()

    before, after = logits(second), logits([399 - token for token in second])

    outside = [*range(5), 14, 15]
    assert torch.equal(before[outside], after[outside])
    assert not torch.allclose(before[5:14], after[5:14])


def test_padding_is_a_document_of_its_own() -> None:
    """Field fault 12: what fills a row up is not trained, even where it is the end token."""
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


@pytest.mark.parametrize(
    ("family", "is_packed"), [("llama", True), ("mistral", True), ("gemma2", False), ("stablelm", False)]
)
def test_documents_are_attended_to_one_by_one_only_where_that_is_right(family: str, is_packed: bool) -> None:
    assert attention.is_packed(packed_model(family)) == is_packed


@pytest.mark.parametrize("make", [tiny.tiny_lfm2, tiny.tiny_bloom], ids=["convolution", "no positions"])
def test_a_model_that_mixes_the_documents_of_a_row_is_refused_unless_each_has_its_own(make: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=r"tokenize\.pack is true, but in \w+ the examples .* would see each other"):
        attention.prepare(make(), packs=True)
    attention.prepare(make(), packs=False)
