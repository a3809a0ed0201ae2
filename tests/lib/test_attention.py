"""Packed rows: a document computes what it computes alone, and no other document can change that."""

import inspect
from collections.abc import Callable
from functools import partial
from itertools import accumulate, chain, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.lib import attention
from stages.lib.errors import UserError
from stages.lib.labels import IGNORED
from stages.lib.logits import logits_at
from stages.lib.prefixes import Document, Segment, lay_out
from stages.lib.trainer import LayoutCollator, PackedCollator
from tests import tiny

FAMILIES: dict[str, Callable[..., Any]] = {
    "gpt2": partial(tiny.tiny_gpt2, attn_pdrop=0.0),  # some kernels have no dropout
    "llama": tiny.tiny_llama,
    "qwen2": tiny.tiny_qwen2,
    "qwen3": tiny.tiny_qwen3,
    "mistral": partial(tiny.tiny_mistral, window=4),  # most of the documents are longer
    "gemma": tiny.tiny_gemma,
    "gemma2": tiny.tiny_gemma2,
    "gemma3": tiny.tiny_gemma3,
    "stablelm": tiny.tiny_stablelm,  # written before attention could be exchanged
}
OURS = [family for family in FAMILIES if family not in ("gemma2", "stablelm")]
BACK_ENDS = {  # the families that it serves
    attention.ONE_BY_ONE: OURS,
    attention.VARLEN: OURS,
    attention.FLASH: [*OURS, "gemma2"],
    "sdpa": [family for family in FAMILIES if family != "gemma2"],  # has no soft cap
    "eager": list(FAMILIES),
}
EACH = [(back_end, family) for back_end, families in BACK_ENDS.items() for family in families]
LENGTHS = [[5, 9, 2], [7, 4]]  # two rows; the second is filled up
UNTRAINED = 1  # tokens at the beginning of each document


def plain_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    num_splits: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """What torch's kernel documents, in a few plain lines; it runs on CUDA only."""
    assert cu_seq_k is not None
    for starts, tensor, longest in ((cu_seq_q, query, max_q), (cu_seq_k, key, max_k), (cu_seq_k, value, max_k)):
        assert starts.dtype == torch.int32
        assert (starts[0], starts[-1]) == (0, len(tensor))
        assert longest == starts.diff().max()
        assert tensor.stride(-1) == 1
    assert enable_gqa == (query.shape[1] != key.shape[1])
    left, right = window_size
    assert right == 0
    times = query.shape[1] // key.shape[1]
    out = []
    for (start, end), (first, last) in zip(pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True):
        q, k, v = (one.transpose(0, 1) for one in (query[start:end], key[first:last], value[first:last]))
        k, v = k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)
        scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        if softcap:
            scores = softcap * (scores / softcap).tanh()
        # Aligned at the end: the last query sees the last key.
        distance = torch.arange(end - start)[:, None] + (last - first - end + start) - torch.arange(last - first)
        seen = (distance >= 0) & ((distance <= left) | (left < 0))
        out.append((scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(out)


def plain_flash_attn(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> torch.Tensor:
    """`flash_attn_varlen_func` of the package flash-attn, as transformers calls it."""
    assert causal
    return plain_varlen(
        *(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k),
        scale=softmax_scale,
        window_size=(window_size[0], 0),
        enable_gqa=q.shape[1] != k.shape[1],
        softcap=softcap,
    )


def lend(patch: pytest.MonkeyPatch, *back_ends: str) -> None:
    """Let `prepare` try these back ends only, CUDA's kernels replaced by plain torch."""
    patch.setattr(attention, "candidates", lambda *_: back_ends)
    patch.setattr(attention, "varlen_attn", plain_varlen)
    patch.setattr(attention, "_FLASH_TYPES", (torch.float32, torch.bfloat16))
    from transformers import PreTrainedModel, modeling_flash_attention_utils
    from transformers.integrations import flash_attention

    def whole(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **settings: Any) -> torch.Tensor:
        """`flash_attn_func`: each row is one document."""
        rows, tokens = q.shape[:2]
        starts = torch.arange(0, rows * tokens + 1, tokens, dtype=torch.int32)
        flat = (tensor.flatten(0, 1) for tensor in (q, k, v))
        return plain_flash_attn(*flat, starts, starts, tokens, tokens, **settings).view(q.shape)

    settings = modeling_flash_attention_utils._lazy_define_process_function(plain_flash_attn)
    loaded = (whole, plain_flash_attn, None, None, None), (settings, None)
    patch.setattr(modeling_flash_attention_utils, "lazy_import_flash_attention", lambda *_: loaded)
    check = PreTrainedModel._check_and_adjust_attn_implementation
    patch.setattr(
        PreTrainedModel,
        "_check_and_adjust_attn_implementation",
        lambda self, name, **more: name if name == attention.FLASH else check(self, name, **more),
    )
    patch.setattr(flash_attention, "get_target_dtype", lambda *_: None)


def packed_model(family: str, back_end: str, patch: pytest.MonkeyPatch) -> Any:
    """A model that `prepare` gave this back end, or its own attention of that name."""
    model = FAMILIES[family]()
    if back_end in ("sdpa", "eager"):
        lend(patch)
        model.set_attn_implementation(back_end)
    else:
        lend(patch, back_end)
    attention.prepare(model, packs=True, compute=torch.float32)
    if family != "stablelm":  # its attention is written into its layers
        assert model.config._attn_implementation == back_end
    return model


def ready(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """What the trainer passes on."""
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    return inputs | attention.boundaries(model, batch["documents"], batch["input_ids"].device)


def documents() -> list[list[list[int]]]:
    draw = torch.Generator().manual_seed(3)
    return [[torch.randint(0, 400, (length,), generator=draw).tolist() for length in row] for row in LENGTHS]


def row(parts: list[list[int]]) -> dict[str, Any]:
    labels = [label for part in parts for label in [*[IGNORED] * min(UNTRAINED, len(part)), *part[UNTRAINED:]]]
    return {
        "input_ids": [token for part in parts for token in part],
        "labels": labels,
        "seq_lengths": [len(part) for part in parts],
        "weights": [1.0] * len(parts),
    }


def batched(model: Any, rows: list[list[list[int]]]) -> dict[str, Any]:
    """As the trainer would."""
    collate = LayoutCollator() if attention.lays_out(model) else PackedCollator(pad_id=0)
    return {name: on(model, value) for name, value in collate([row(parts) for parts in rows]).items()}


def nats(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    targets = batch["labels"][:, 1:]
    wanted = torch.nn.functional.pad(targets != IGNORED, (0, 1))
    logits = logits_at(model, wanted, **ready(model, batch))
    return torch.nn.functional.cross_entropy(logits, targets[targets != IGNORED], reduction="sum")


def nats_alone(model: Any, rows: list[list[list[int]]]) -> torch.Tensor:
    """The same sum, each document run by itself."""
    total = torch.zeros((), device=model.device)
    for part in chain.from_iterable(rows):
        tokens = torch.tensor([part], device=model.device)
        logits = model(input_ids=tokens).logits[0, :-1].float()
        trained = slice(UNTRAINED - 1, None)
        total = total + torch.nn.functional.cross_entropy(logits[trained], tokens[0, 1:][trained], reduction="sum")
    return total


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def logits_of(model: Any, rows: list[list[list[int]]], pad_id: int = 0) -> list[torch.Tensor]:
    """(tokens, vocabulary) for each document."""
    texts = list(chain.from_iterable(rows))
    if attention.lays_out(model):
        layout = lay_out([Document.untrained(text) for text in texts])
        tensors = {name: torch.tensor([getattr(layout, name)]) for name in ("input_ids", "position_ids")}
        batch, ways = tensors | {"documents": layout.segments}, layout.ways()
    else:
        batch = PackedCollator(pad_id)([row(parts) for parts in rows])
        width = batch["input_ids"].shape[1]
        starts = [
            number * width + start
            for number, parts in enumerate(rows)
            for start in accumulate(map(len, parts[:-1]), initial=0)
        ]
        ways = [list(range(start, start + len(text))) for start, text in zip(starts, texts, strict=True)]
    batch = {name: on(model, value) for name, value in batch.items()}
    with torch.no_grad():
        logits = model(**ready(model, batch), use_cache=False).logits.flatten(0, 1)
    return [logits[way] for way in ways]


def on(model: Any, value: Any) -> Any:
    return value.to(model.device) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize(("back_end", "family"), EACH)
def test_a_packed_batch_has_the_loss_and_gradients_of_its_documents_alone(
    back_end: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = packed_model(family, back_end, monkeypatch)
    plain = FAMILIES[family]()  # the same seed, attention as the library has it

    require_the_same(model, plain, documents())


@pytest.mark.parametrize(
    ("back_end", "family"), [one for one in EACH if one[0] in (attention.ONE_BY_ONE, attention.VARLEN)]
)
def test_documents_that_begin_alike_have_the_loss_and_gradients_they_have_alone(
    back_end: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginnings within beginnings, longer than a window; the last token that is shared has as many targets."""
    model = packed_model(family, back_end, monkeypatch)
    plain = FAMILIES[family]()
    (first, second, third), (fourth, fifth) = documents()
    begun = [[*second, *first], [*second, *fourth, *third], [*second, *fourth, *fifth], second[:6]]
    monkeypatch.setattr("tests.lib.test_attention.UNTRAINED", len(second) + 1)

    assert batched(model, [begun])["input_ids"].shape[1] < sum(map(len, begun)) - 2 * len(second)
    require_the_same(model, plain, [begun, [third]])


def require_the_same(model: Any, plain: Any, rows: list[list[list[int]]]) -> None:
    """Loss and gradients of a batch, and of its documents run alone."""
    together, alone = nats(model, batched(model, rows)), nats_alone(plain, rows)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)
    packed, expected = gradients(model, together), gradients(plain, alone)
    assert packed.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (packed[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize(("back_end", "family"), EACH)
def test_changing_one_document_changes_no_other(back_end: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = packed_model(family, back_end, monkeypatch)
    (first, second, third), below = documents()

    before = logits_of(model, [[first, second, third], below])
    after = logits_of(model, [[first, [399 - token for token in second], third], below])

    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        assert torch.allclose(one, other, rtol=0, atol=0 if number != 1 else 1e-3) == (number != 1)


@pytest.mark.parametrize(("back_end", "family"), EACH)
def test_padding_changes_nothing(back_end: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = packed_model(family, back_end, monkeypatch)
    long, short = documents()

    alone = torch.cat(logits_of(model, [short]))
    filled, otherwise = (torch.cat(logits_of(model, [long, short], pad_id)[len(long) :]) for pad_id in (0, 9))

    assert torch.equal(filled, otherwise)
    assert (filled - alone).norm() <= 1e-6 * alone.norm()


def test_padding_is_a_document_of_its_own() -> None:
    """Field fault 12: what fills a row up is not trained, even where it is the end token."""
    batch = PackedCollator(pad_id=9)([row(parts) for parts in documents()])

    assert batch["input_ids"][1, 11:].tolist() == [9] * 5
    assert batch["labels"][1, 11:].tolist() == [IGNORED] * 5
    assert batch["position_ids"][1].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert batch["documents"] == [[5, 9, 2], [7, 4, 5]]
    assert "attention_mask" not in batch


def test_kernels_are_told_where_each_document_of_the_batch_starts() -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(_attn_implementation=attention.FLASH))

    told = attention.boundaries(model, [[5, 9, 2], [7, 4, 5]], torch.device("cpu"))

    assert told["cu_seq_lens_q"].tolist() == told["cu_seq_lens_k"].tolist() == [0, 5, 14, 16, 23, 27, 32]
    assert told["max_length_q"] == told["max_length_k"] == 9


def test_torchs_kernel_is_told_where_each_segment_starts_and_what_it_attends_to() -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(_attn_implementation=attention.VARLEN))
    segments = [Segment(3), Segment(2, (0,)), Segment(1, (0,)), Segment(4)]

    told = attention.boundaries(model, segments, torch.device("cpu"))

    assert told["cu_seq_lens_q"].tolist() == [0, 3, 5, 6, 10]
    assert told["cu_seq_lens_k"].tolist() == [0, 3, 8, 12, 16]
    assert (told["max_length_q"], told["max_length_k"]) == (4, 5)
    assert told["key_places"].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8, 9]
    assert attention.boundaries(model, segments[:1], torch.device("cpu"))["key_places"] is None


def test_the_plain_kernel_takes_what_the_real_one_takes() -> None:
    plain, real = (inspect.signature(kernel).parameters for kernel in (plain_varlen, attention.varlen_attn))
    assert [(one.name, one.kind, one.default) for one in plain.values() if one.name != "softcap"] == [
        (one.name, one.kind, one.default) for one in real.values()
    ]


@pytest.mark.parametrize("attend", [attention.packed_attention, attention.varlen_attention])
def test_a_mask_is_refused_because_documents_would_see_each_other(attend: Callable[..., Any]) -> None:
    tensor = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match="no attention mask"):
        attend(torch.nn.Module(), tensor, tensor, tensor, torch.ones(1, 1, 4, 4), *[None] * 5)


@pytest.mark.parametrize(
    ("make", "choice"),
    [
        (tiny.tiny_llama, "sdpa, one document at a time"),
        (tiny.tiny_mistral, "sdpa, one document at a time"),
        (tiny.tiny_gemma2, "eager over whole rows (sdpa, one document at a time: no soft cap on the scores)"),
        (tiny.tiny_phimoe, "sdpa over whole rows (sdpa, one document at a time: a window that only the mask knows)"),
        (
            partial(tiny.tiny_gemma3, use_bidirectional_attention=True),  # an embedding model
            "sdpa over whole rows (sdpa, one document at a time: other values than the model's own)",
        ),
        (tiny.tiny_stablelm, "sdpa over whole rows"),
    ],
)
def test_documents_are_attended_to_one_by_one_only_where_that_is_right(make: Callable[[], Any], choice: str) -> None:
    assert attention.prepare(make(), packs=True, compute=torch.float32) == choice


@pytest.mark.parametrize(
    ("compute", "exchangeable", "offered", "where", "expected"),
    [
        (torch.bfloat16, True, (True, None), "cuda", [attention.VARLEN]),
        (torch.float16, True, (True, "2.8.3"), "cuda", [attention.VARLEN, attention.FLASH]),
        (torch.float32, True, (True, "2.8.3"), "cuda", []),
        (torch.bfloat16, True, (False, "2.8.3"), "cuda", [attention.FLASH]),
        (torch.bfloat16, False, (True, None), "cuda", []),
        (torch.bfloat16, True, (True, "2.8.3"), "cpu", []),  # FSDP has yet to move it
    ],
)
def test_flash_attention_on_cuda_is_for_half_precision(
    compute: torch.dtype,
    exchangeable: bool,
    offered: tuple[bool, str | None],  # torch's, and the version of flash-attn
    where: str,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model: Any = SimpleNamespace(
        device=torch.device(where), _supports_attention_backend=exchangeable, _supports_flash_attn=True
    )
    torchs, package = offered
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention, "kernels", lambda: {attention.VARLEN: torchs, attention.FLASH: package})

    assert attention.candidates(model, compute) == expected


@pytest.mark.parametrize(
    ("back_ends", "choice"),
    [
        ((attention.VARLEN, attention.FLASH), "flash-attn"),
        ((attention.VARLEN,), "sdpa over whole rows (torch.nn.attention.varlen: no dropout of attention)"),
    ],
)
def test_dropout_of_attention_is_not_left_out_for_speed(
    back_ends: tuple[str, ...], choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2 drops a tenth by default, in training only: a look at the model in eval mode would not tell."""
    lend(monkeypatch, *back_ends)
    assert attention.prepare(tiny.tiny_gpt2(), packs=True, compute=torch.float32) == choice


@pytest.mark.parametrize(
    ("size", "dtype", "settings", "reason"),
    [
        (8, torch.float32, {}, "half precision only"),
        (20, torch.bfloat16, {}, "no heads of 20 and 20"),
        (264, torch.bfloat16, {}, "no heads of 264 and 264"),
        (8, torch.bfloat16, {"dropout": 0.1}, "no dropout of attention"),
        (8, torch.bfloat16, {"softcap": 50.0}, "no soft cap on the scores"),
        (8, torch.bfloat16, {"s_aux": torch.zeros(2)}, "no attention sinks"),
    ],
)
def test_what_torchs_kernel_lacks_is_refused_in_words(
    size: int, dtype: torch.dtype, settings: dict[str, Any], reason: str
) -> None:
    tensor = torch.zeros(1, 2, 4, size, dtype=dtype)
    ends = torch.tensor([0, 4])
    with pytest.raises(attention.Unsupported, match=reason):
        attention.varlen_attention(torch.nn.Module(), tensor, tensor, tensor, None, ends, ends, 4, 4, None, **settings)


def test_torchs_kernel_gets_what_autocast_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in fp32 make queries in fp32 even under autocast, where positions are rotated in."""
    lend(monkeypatch, attention.VARLEN)
    seen = set()

    def note(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **settings: Any) -> torch.Tensor:
        seen.update({query.dtype, key.dtype, value.dtype})
        return plain_varlen(query, key, value, *rest, **settings)

    monkeypatch.setattr(attention, "varlen_attn", note)
    assert attention.prepare(tiny.tiny_llama(), packs=True, compute=torch.bfloat16) == "torch.nn.attention.varlen"
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("back_end", [attention.ONE_BY_ONE, attention.VARLEN, attention.FLASH, "sdpa"])
@pytest.mark.parametrize("make", [tiny.tiny_lfm2, tiny.tiny_bloom], ids=["convolution", "no positions"])
def test_a_model_that_mixes_the_documents_of_a_row_is_refused_unless_each_has_its_own(
    make: Callable[[], Any], back_end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lend(monkeypatch, *([] if back_end == "sdpa" else [back_end]))
    with pytest.raises(UserError, match=r"tokenize\.pack is true, but in \w+ the examples .* would see each other"):
        attention.prepare(make(), packs=True, compute=torch.float32)
    attention.prepare(make(), packs=False, compute=torch.float32)


def test_a_back_end_that_loses_track_of_the_documents_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers finds documents by their positions for flash-attn only in batches of one row."""
    lend(monkeypatch, attention.FLASH)
    monkeypatch.setattr(attention, "boundaries", lambda *_: {})

    choice = attention.prepare(tiny.tiny_llama(), packs=True, compute=torch.float32)

    assert choice == "sdpa over whole rows (flash-attn: documents see each other)"


def test_a_kernel_that_the_device_cannot_run_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nException raised from ...")

    lend(monkeypatch, attention.VARLEN)
    monkeypatch.setattr(attention, "varlen_attn", refuse)

    choice = attention.prepare(tiny.tiny_llama(), packs=True, compute=torch.float32)

    assert choice.endswith("(torch.nn.attention.varlen: FlashAttention only supports Ampere GPUs or newer.)")


def test_choosing_leaves_no_trace_but_the_choice() -> None:
    model = tiny.tiny_gpt2()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    attention.prepare(model, packs=True, compute=torch.float32)

    assert torch.equal(torch.rand(1), expected)
    assert not model.training
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnCuda:
    """The real kernels, in bf16, beside each document run alone in bf16 with the model's own attention."""

    def model(self, family: str) -> Any:
        return FAMILIES[family]().to("cuda", torch.bfloat16)

    def prepared(self, family: str) -> Any:
        model = self.model(family)
        attention.prepare(model, packs=True, compute=torch.bfloat16)
        return model

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_kernel_of_torch_is_taken_where_it_can(self, family: str) -> None:
        implementation = self.prepared(family).config._attn_implementation
        assert (implementation == attention.VARLEN) == (family in OURS)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_packed_batch_has_the_loss_and_gradients_of_its_documents_alone(self, family: str) -> None:
        model, plain = self.prepared(family), self.model(family)
        together = nats(model, batched(model, documents()))
        alone = nats_alone(plain, documents())

        torch.testing.assert_close(together.float(), alone, rtol=0.02, atol=0)
        packed, expected = gradients(model, together), gradients(plain, alone)
        flat, other = (torch.cat([one[name].flatten().float() for name in expected]) for one in (packed, expected))
        assert (flat - other).norm() <= 0.1 * other.norm()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_changing_one_document_changes_no_other(self, family: str) -> None:
        model = self.prepared(family)
        (first, second, third), below = documents()

        before = logits_of(model, [[first, second, third], below])
        after = logits_of(model, [[first, [399 - token for token in second], third], below])

        assert all(torch.equal(before[number], after[number]) for number in (0, 2, 3, 4))

    def test_the_gradient_is_the_same_to_the_bit_each_time(self) -> None:
        model = self.prepared("llama")
        batch = batched(model, documents() * 8)
        torch.use_deterministic_algorithms(True)
        try:
            first, *others = (self.gradient(model, batch) for _ in range(5))
        finally:
            torch.use_deterministic_algorithms(False)
        assert all(torch.equal(first, other) for other in others)

    def gradient(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        model.zero_grad()
        return torch.cat([one.flatten() for one in gradients(model, nats(model, batch)).values()])
