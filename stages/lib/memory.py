"""How much memory training needs, told from the model's shape before any weight is loaded, and how much there is.

What backward needs is counted as Korthikanti et al. 2022 do (arXiv:2205.05198, section 4), with other terms where
training here is other: each document attends to itself by a kernel that keeps no scores, so nothing grows with the
square of the length; a frozen linear layer keeps no input, one with an adapter does; logits are made at trained
positions only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import psutil
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GIB = 2**30
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: 4 bits, a byte of scale for 64, double quantization (2305.14314)
# Bytes of state a trained weight, beside the gradient; paged ones may lie in the machine's memory instead.
MOMENTS = {
    "adamw_torch_fused": 8,
    "adamw_torch": 8,
    "paged_adamw_32bit": 8,
    "lion_32bit": 4,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
    "lion_8bit": 1,
    "adafactor": 0,
    "sgd": 0,
}
BUFFERS = 0.1 * GIB  # of libraries, once they work: measured on a CPU by benchmarks/memory.py
# On a CPU, measured by the same: an adapter's small results between large ones keep glibc from joining what is freed.
SLACK = {"full": 0.1, "lora": 0.25, "qlora": 0.5}
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak of a step, by part."""

    weights: float
    optimizer: float  # gradients included
    activations: float
    logits: float
    other: float  # buffers of the libraries; what they themselves take is taken already

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.optimizer + self.activations + self.logits + self.other

    def __str__(self) -> str:
        if self.total < GIB / 20:
            return "less than 0.1 GiB"
        parts = vars(self).items()
        return f"about {gib(self.total)} GiB ({', '.join(f'{gib(size)} {name}' for name, size in parts)})"


@dataclass(frozen=True)
class Demand:
    """What training a model takes, whatever the batch."""

    weights: float
    optimizer: float
    other: float
    slack: float  # share of activations and logits that is lost in holes between them
    layers: int
    token: float  # bytes that a layer keeps of each token
    kept: float  # the same, if it is computed again for backward
    logit: float  # bytes for each trained token
    length: int  # tokens of the longest row
    trained: Sequence[int]  # trained tokens of each row, the most first

    def at(self, batch_size: int, *, checkpointing: bool) -> Estimate:
        """The estimate for the heaviest batch of so many rows."""
        # One layer more: what backward has in hand while it goes through a layer is about what the layer kept.
        token = self.token + self.layers * (self.kept if checkpointing else self.token)
        activations = batch_size * self.length * token
        logits = sum(self.trained[:batch_size]) * self.logit
        return Estimate(
            weights=self.weights,
            optimizer=self.optimizer,
            activations=activations,
            logits=logits,
            other=self.other + self.slack * (activations + logits),
        )


def drawing(config: Any) -> "PreTrainedModel":
    """The model as a drawing: every layer and shape of it, without memory for weights. No random number is used up."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def demand(
    model: Any,
    adapter: Any,
    *,
    method: str,
    compute: torch.dtype,
    optimizer: str,
    device: str,
    length: int,
    trained: Sequence[int],
    document: float,
    shares: int = 1,
    tiles: bool = True,
) -> Demand:
    """What training takes.

    Args:
        model: a `drawing`, with the adapter in it.
        adapter: peft's config of the adapter; None for method full.
        method: lora, qlora or full.
        compute: the type that the model computes in.
        optimizer: as transformers names it.
        device: cpu or cuda.
        length: tokens of the longest packed row.
        trained: trained tokens of each packed row.
        document: tokens of an example, on average.
        shares: processes that each hold a part of weights, gradients and moments.
        tiles: whether TRL's kernel, where it runs (not on a CPU), may make the loss of this training.
    """
    config = model.config.get_text_config()
    stream = compute.itemsize if method == "lora" else 4  # of what flows from layer to layer
    weights = sum(weight.numel() for weight in model.parameters())
    learned = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if adapter is None:
        linear = _linear_weights(model)
        loaded = 4 * weights + (compute.itemsize * linear if compute.itemsize < 4 else 0)  # autocast copies them
    elif method == "qlora":
        linear = _linear_weights(model)
        loaded = NF4 * linear + 4 * (weights - linear)
    else:
        loaded = compute.itemsize * (weights - learned) + 4 * learned
    return Demand(
        weights=loaded / shares,
        optimizer=(4 + MOMENTS[optimizer]) * learned / shares,
        other=BUFFERS,
        slack=SLACK[method] if device == "cpu" else SLACK["full"],
        layers=config.num_hidden_layers,
        token=_kept_of_a_token(model, config, adapter, compute.itemsize, document) / config.num_hidden_layers,
        kept=config.hidden_size * stream,
        # Log-probabilities, their gradient and that of the logits, in fp32; TRL's kernel makes tiles of them.
        logit=12 * config.vocab_size if device == "cpu" or not tiles else 0,
        length=length,
        trained=sorted(trained, reverse=True),
    )


def _linears(model: Any) -> Iterator[tuple[str, Any]]:
    """Linear layers of the base; the head, which is never quantized and keeps next to nothing, is left out."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head and ".lora_" not in name:
            yield name, module


def _linear_weights(model: Any) -> int:
    return sum(module.weight.numel() for _, module in _linears(model))


def _kept_of_a_token(model: Any, config: Any, adapter: Any, size: int, document: float) -> float:
    """Bytes that all layers keep of a token for backward; `size` is that of a number in the compute type."""
    layers, hidden = config.num_hidden_layers, config.hidden_size
    heads = getattr(config, "num_attention_heads", None) or 1  # Mamba has none
    queries = heads * (getattr(config, "head_dim", None) or hidden // heads)
    keys = queries // heads * (getattr(config, "num_key_value_heads", None) or heads)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
    inner = max(inner) if isinstance(inner, list | tuple) else inner  # Gemma 3n names that of each layer
    gated = any("gate" in name for name, _ in _linears(model))
    # Gate, activated gate and the other half; or the four factors of GELU as GPT-2 writes it.
    pointwise = (3 if gated else 4) * inner * size
    attention = 2 * (queries + keys) * size  # queries, keys, values and the outcome
    if dropped := getattr(config, "attention_dropout", 0) or getattr(config, "attn_pdrop", 0):
        # No kernel of a CPU drops scores out: they are kept, softened, drawn and dropped, in fp32.
        attention += 12 * heads * document + 12 * queries
    if dropped or getattr(config, "resid_pdrop", 0):
        attention += 2 * hidden * size
    norms = sum(
        module.weight.numel() * (8 if module.weight.requires_grad else 4)  # the input, and its normal form
        for module in model.modules()
        if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None
    )
    return (
        layers * (pointwise + attention)
        + norms
        + _inputs(model, adapter, size, layers * (2 * hidden + queries + inner))
    )


def _inputs(model: Any, adapter: Any, size: int, distinct: int) -> float:
    """Bytes of the inputs of linear layers that learn: one copy for all in fp32, one for each where autocast casts."""
    learning = [
        module.in_features if hasattr(module, "in_features") else module.weight.shape[0]
        for name, module in _linears(model)
        if adapter is None or name.endswith(".base_layer")
    ]
    total = sum(learning)
    kept = size * (total if size < 4 else min(total, distinct))
    return kept + (4 * total if adapter is not None and adapter.lora_dropout else 0)


def available(device: torch.device) -> int:
    """Bytes that this process may still take, on the GPU or of the machine's memory.

    In a container it is the cgroup's limit that counts (Linux; version 1 and 2): psutil tells what the machine has.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([int(psutil.virtual_memory().available), *_left_in_cgroups()])


def _left_in_cgroups() -> Iterator[int]:
    """What is left in each cgroup of this process that has a limit. Its pages of files can be dropped."""
    try:
        lines = MEMBERSHIP.read_text(encoding="ascii").split()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, names = CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        elif not controllers:
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        else:
            continue
        place = PurePosixPath(path.lstrip("/"))
        for group in (place, *place.parents):  # in a container the path may be that on the host, and is not found
            yield from _left(root / group, *names)


def _left(group: Path, limit: str, usage: str, droppable: str) -> Iterator[int]:
    try:
        allowed = (group / limit).read_text(encoding="ascii").strip()
        used = int((group / usage).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return
    if allowed != "max":
        yield max(0, int(allowed) - used + int(stat.get(droppable, 0)))


def is_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or should_reduce_batch_size(error)


def gib(size: float) -> str:
    """Bytes in GiB, for people."""
    return f"{size / GIB:.1f}" if size < 99.95 * GIB else f"{size / GIB:.0f}"
