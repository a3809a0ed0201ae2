"""Attention over packed rows: each document of a row attends to itself alone.

transformers' own attention isolates documents whose position_ids restart at 0, for most models, by a mask over the
whole row: on a CPU that costs 28 % of a step at 512 tokens and 70-token documents. So, where it is right:
- on a CPU sdpa, one document at a time: the same values, a fraction of the work;
- on CUDA in half precision the FlashAttention inside torch (arXiv:2307.08691);
- else the package flash-attn, which also knows dropout and soft caps;
- else the model's own attention under that mask.
The first two take a batch as `prefixes.lay_out` lays it out, where documents that begin alike share their beginning.
A probe decides: a document must give what it gives alone, whatever stands before it in the row or in other rows.
"""

import importlib.metadata
from collections.abc import Sequence
from functools import cache
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from stages.lib.errors import UserError
from stages.lib.prefixes import Document, Segment, lay_out

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ONE_BY_ONE = "packed"
VARLEN = "packed_varlen"
FLASH = "flash_attention_2"  # transformers' name for the package flash-attn
_IN_WORDS = {ONE_BY_ONE: "sdpa, one document at a time", VARLEN: "torch.nn.attention.varlen", FLASH: "flash-attn"}
_FLASH_TYPES = (torch.float16, torch.bfloat16)
_FLASH_CAPABILITY = (8, 0)  # Ampere
_FLASH_HEAD_SIZE = 256

# In two rows: a mix-up of rows shows only where there are two.
_OTHERS = [1, 2, 3, 4, 5], [9, 8, 7, 6, 5]
_DOCUMENT = [3, 1, 4, 1, 5, 9, 2]

Rows = Sequence[Sequence[list[int]]]  # the documents of each


class Unsupported(Exception):
    """The model's attention does something that this back end cannot."""


def prepare(model: "PreTrainedModel", *, packs: bool, compute: torch.dtype, compiles: bool = False) -> str:
    """Give `model` the fastest attention that is right for packed rows.

    Args:
        model: as transformers loaded it, in eval mode.
        packs: whether any row holds more than one document.
        compute: the type that training computes in; autocast's, where the weights have another.
        compiles: whether torch.compile will take the model, which wants tensors of one shape and no lists: its own
            attention.

    Returns:
        The choice in words, with what spoke against better ones.

    Raises:
        UserError: when documents would see each other, as in linear attention, convolutions, or without positions.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ONE_BY_ONE, packed_attention)
    AttentionInterface.register(VARLEN, varlen_attention)
    own = model.config._attn_implementation
    (alone,) = _logits(model, compute, [[_DOCUMENT]])
    refused = []
    for name in [] if compiles else candidates(model, compute):
        reason = _unfit(model, name, compute, alone)
        if reason is None:
            return _IN_WORDS[name]
        refused.append(f"{_IN_WORDS[name]}: {reason}")
        model.set_attn_implementation(own)
    if packs and _leaks(_beside_others(model, compute), compute):
        raise UserError(
            f"params.yaml: tokenize.pack is true, but in {type(model).__name__} the examples of a packed row would see "
            "each other. Set tokenize.pack to false, or choose another base."
        )
    return f"{own} over whole rows" + (f" ({'; '.join(refused)})" if refused else "")


def kernels() -> dict[str, Any]:
    """What this machine offers `prepare`: with the model and the precision, it decides the choice."""
    if not torch.cuda.is_available():
        return {}
    return {VARLEN: torch.cuda.get_device_capability() >= _FLASH_CAPABILITY, FLASH: _flash_attn()}


def lays_out(model: "PreTrainedModel") -> bool:
    """Whether the model, after `prepare`, takes a batch as `prefixes.lay_out` lays it out, and not as padded rows."""
    return model.config._attn_implementation in (ONE_BY_ONE, VARLEN)


def boundaries(
    model: "PreTrainedModel", documents: Sequence[Segment] | Sequence[Sequence[int]], device: torch.device
) -> dict[str, Any]:
    """What the model's forward wants to know of a batch's documents, made once for all its layers.

    Args:
        model: after `prepare`.
        documents: the segments of the layout, if the model `lays_out`; else for each row the lengths of its documents,
            which together fill the row, padding included.
        device: where the batch is.
    """
    implementation = model.config._attn_implementation
    if implementation == ONE_BY_ONE:
        _mask.cache_clear()  # those of the last batch: few have the same shape
        return {"segments": documents}
    if implementation == VARLEN:
        return _of_segments(cast(Sequence[Segment], documents), device)
    if implementation != FLASH:
        return {}  # found by their positions
    # transformers looks for documents by itself only in a batch of one row; in others they would leak.
    lengths = list(chain.from_iterable(cast(Sequence[Sequence[int]], documents)))
    return _starts("q", lengths, device) | _starts("k", lengths, device)


def _of_segments(segments: Sequence[Segment], device: torch.device) -> dict[str, Any]:
    """Where each segment starts, and where among all tokens those stand that it attends to."""
    lengths = [segment.length for segment in segments]
    starts = [0, *accumulate(lengths)]
    ways = [
        [place for one in (*segment.before, number) for place in range(starts[one], starts[one + 1])]
        for number, segment in enumerate(segments)
    ]
    is_shared = any(segment.before for segment in segments)
    places = torch.tensor(list(chain.from_iterable(ways)), device=device) if is_shared else None
    return _starts("q", lengths, device) | _starts("k", list(map(len, ways)), device) | {"key_places": places}


def _starts(name: str, lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    return {f"cu_seq_lens_{name}": starts, f"max_length_{name}": max(lengths)}


def candidates(model: "PreTrainedModel", compute: torch.dtype) -> list[str]:
    """Back ends that would be better than the model's own, the best first."""
    exchangeable = model._supports_attention_backend
    if not torch.cuda.is_available():
        return [ONE_BY_ONE] if exchangeable else []
    # FSDP moves the weights to its GPUs later, where nothing can be tried out now.
    if model.device.type != "cuda" or compute not in _FLASH_TYPES:
        return []
    offered = kernels()
    chosen = [VARLEN] if exchangeable and offered[VARLEN] else []
    return [*chosen, FLASH] if model._supports_flash_attn and offered[FLASH] else chosen


def _flash_attn() -> str | None:
    """The version of the package flash-attn, if it is installed and transformers would take it."""
    from transformers.utils import is_flash_attn_2_available

    return importlib.metadata.version("flash_attn") if is_flash_attn_2_available() else None


def _unfit(model: "PreTrainedModel", name: str, compute: torch.dtype, alone: torch.Tensor) -> str | None:
    """Why `model`, which is given this attention, cannot be trained with it on packed rows; None when it can."""
    try:
        model.set_attn_implementation(name)
        seen = _beside_others(model, compute)
        if _leaks(seen, compute):
            return "documents see each other"
        # Other kernels round otherwise: in bf16 by up to 0.1 on SmolLM2, where one token seen too much gave 0.3.
        # (Of several processes FSDP may give only the first the weights; what the others compute tells nothing.)
        tolerance = 1e-3 if compute == torch.float32 else 0.2
        if alone.isfinite().all() and not (seen[0] - alone).norm() <= tolerance * seen[0].norm():
            return "other values than the model's own"
        _take_a_gradient(model, compute)
    except torch.OutOfMemoryError:
        raise
    except (Unsupported, RuntimeError, ImportError) as error:  # as kernels refuse devices and sizes
        return str(error).partition("\n")[0]
    return None


def _beside_others(model: "PreTrainedModel", compute: torch.dtype) -> torch.Tensor:
    """The logits of `_DOCUMENT`, (others, rows, tokens, vocabulary), after and before another document in a row."""
    seen = []
    for other in _OTHERS:
        _, after, before, _ = _logits(model, compute, [[other, _DOCUMENT], [_DOCUMENT, other]])
        seen.append(torch.stack([after, before]))
    return torch.stack(seen)


def _leaks(seen: torch.Tensor, compute: torch.dtype) -> bool:
    """Whether a document's logits move with the document beside it."""
    # A leak moves logits by whole units; what rounding moves, in mixtures of experts, stays far below.
    rounding = 1e-3 if compute == torch.float32 else 0.02
    return bool((seen[0] - seen[1]).abs().max() > rounding * seen.abs().max())


def _logits(model: "PreTrainedModel", compute: torch.dtype, rows: Rows) -> list[torch.Tensor]:
    """(tokens, vocabulary) for each document in order, computed as in training."""
    with torch.no_grad():
        logits, documents = _forward(model, compute, rows)
    return [logits[places].float() for places in documents]


def _forward(model: "PreTrainedModel", compute: torch.dtype, rows: Rows) -> tuple[torch.Tensor, list[list[int]]]:
    """Logits of all tokens, (tokens, vocabulary), and for each document in order where its tokens stand there.

    Rows are of one length.
    """
    texts = list(chain.from_iterable(rows))
    documents: Sequence[Segment] | Sequence[Sequence[int]]
    if lays_out(model):
        layout = lay_out([Document.untrained(text) for text in texts])
        ids, positions, documents = [layout.input_ids], [layout.position_ids], layout.segments
        places = layout.ways()
    else:
        documents = [[len(text) for text in row] for row in rows]
        ids = [list(chain.from_iterable(row)) for row in rows]
        positions = [[place for length in row for place in range(length)] for row in documents]
        places = [list(range(*ends)) for ends in pairwise([0, *accumulate(map(len, texts))])]
    with torch.autocast(model.device.type, dtype=compute, enabled=compute != torch.float32):
        logits = model(
            input_ids=torch.tensor(ids, device=model.device),
            position_ids=torch.tensor(positions, device=model.device),
            **boundaries(model, documents, model.device),
            use_cache=False,
        ).logits
    return logits.flatten(0, 1), places


def _take_a_gradient(model: "PreTrainedModel", compute: torch.dtype) -> None:
    """Go forward and back as training does, dropout included; only the embedded tokens get a gradient."""
    embedded: list[torch.Tensor] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda *passed: embedded.append(passed[-1]))
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        model.train()
        try:
            logits, _ = _forward(model, compute, [[_OTHERS[0], _DOCUMENT]] * 2)
            torch.autograd.grad(logits.float().sum(), embedded)
        finally:
            model.eval()
            hook.remove()


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    segments: Sequence[Segment],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document, one at a time.

    Args:
        query: (1, heads, tokens, head size); key and value may have fewer heads (grouped-query attention).
        segments: of the layout.
        sliding_window: a token attends to itself and to this many tokens before it, less one.

    Returns:
        (1, tokens, heads, head size), and no attention weights.

    Raises:
        Unsupported: for a soft cap on the scores (Gemma 2), attention sinks (GPT-OSS), and other masks than windows.
    """
    _refuse(attention_mask, softcap, s_aux)
    grouped = query.shape[1] != key.shape[1]
    window = _window(module, sliding_window)
    # Cut once: each slice would fill and add a gradient of the whole batch.
    queries, keys, values = (tensor.split([one.length for one in segments], dim=2) for tensor in (query, key, value))
    attended = []
    for number, segment in enumerate(segments):
        way = [*segment.before, number]
        q, k, v = queries[number], _joined(keys, way), _joined(values, way)
        masked = _causal(q.shape[2], k.shape[2], window, q.device)
        out = scaled_dot_product_attention(q, k, v, **masked, dropout_p=dropout, scale=scaling, enable_gqa=grouped)
        attended.append(out.transpose(1, 2))
    return torch.cat(attended, dim=1), None


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    max_length_q: int,
    max_length_k: int,
    key_places: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document, all in one call of torch's FlashAttention.

    Its backward is deterministic where `torch.use_deterministic_algorithms` asks for it.

    Args:
        query: as in `packed_attention`, and so are `sliding_window` and what is returned.
        cu_seq_lens_q: (segments + 1,), int32: where each segment starts, and where the last one ends.
        cu_seq_lens_k: the same for what each segment attends to, its own tokens last: the kernel aligns them there.
        max_length_q: tokens of the longest segment; of what one attends to, `max_length_k`.
        key_places: where the tokens that segments attend to stand in the layout; None if each attends to itself alone.

    Raises:
        Unsupported: as `packed_attention`, and for dropout, fp32, and heads that the kernel does not take.
    """
    _refuse(attention_mask, softcap, s_aux)
    if dropout:
        raise Unsupported("no dropout of attention")
    if torch.is_autocast_enabled(query.device.type):  # sdpa is on autocast's list, this is not
        compute = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(compute), key.to(compute), value.to(compute)
    if query.dtype not in _FLASH_TYPES:
        raise Unsupported("half precision only")
    heads, size = query.shape[1], query.shape[3]
    if size % 8 or size > _FLASH_HEAD_SIZE or value.shape[-1] != size:
        raise Unsupported(f"no heads of {size} and {value.shape[-1]}")
    window = _window(module, sliding_window)
    looks_back = -1 if window is None or max_length_k <= window else window - 1  # not counting the token itself
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if key_places is not None:
        key, value = key[key_places], value[key_places]
    out: Any = varlen_attn(
        query,
        key,
        value,
        cu_seq_lens_q,
        cu_seq_lens_k,
        max_length_q,
        max_length_k,
        scale=scaling,
        window_size=(looks_back, 0),
        enable_gqa=heads != key.shape[1],
    )
    return out.unsqueeze(0), None


def _refuse(attention_mask: torch.Tensor | None, softcap: float | None, s_aux: torch.Tensor | None) -> None:
    if attention_mask is not None:
        raise ValueError("packed rows carry no attention mask: a mask of ones lets documents see each other")
    if softcap is not None:
        raise Unsupported("no soft cap on the scores")
    if s_aux is not None:
        raise Unsupported("no attention sinks")


def _window(module: torch.nn.Module, given: int | None) -> int | None:
    """How many tokens a token attends to at most, itself included; None for all before it.

    Raises:
        Unsupported: when the model tells only its mask, which is not made here, how far this layer looks back.
    """
    window = given if given is not None else getattr(module, "sliding_window", None)
    config = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        is_limited = getattr(config, "sliding_window", None) is not None
    else:
        is_limited = kinds[module.layer_idx] in ("sliding_attention", "chunked_attention")
    if is_limited and window is None:
        raise Unsupported("a window that only the mask knows")
    return window


def _joined(parts: Sequence[torch.Tensor], numbers: Sequence[int]) -> torch.Tensor:
    """Some parts, one behind the other."""
    return parts[numbers[0]] if len(numbers) == 1 else torch.cat([parts[number] for number in numbers], dim=2)


def _causal(length: int, known: int, window: int | None, device: torch.device) -> dict[str, Any]:
    """What makes the last `length` of `known` tokens look back, and no further than the window."""
    if length == known and (window is None or known <= window):
        return {"is_causal": True}
    return {"attn_mask": _mask(length, known, window, device)}


@cache
def _mask(length: int, known: int, window: int | None, device: torch.device) -> torch.Tensor:
    """(length, known), true where a token is attended to."""
    every = torch.ones(length, known, dtype=torch.bool, device=device).tril(known - length)
    return every if window is None else every.triu(known - length + 1 - window)
