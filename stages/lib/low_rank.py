"""A linear layer with its LoRA adapter, in as few passes over memory as there can be.

Own code, because peft adds s·B(A(x)) to the layer's outcome in operations of their own, and autograd goes back through
each: on a CPU a tenth of a step, and a sixth of its memory. Here products add to what is there, as Unsloth has it in
Triton (`LoRA_W`). Values and gradients are those of peft.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D


def speed_up(model: Any) -> None:
    """Let the adapters of a peft model compute so, wherever they are plain LoRA on an unquantized linear layer.

    Not for weights that are spread over processes: FSDP and DeepSpeed collect them when a layer is called, and here
    they are read without a call.
    """
    for module in model.modules():
        if type(module) is Linear and type(module.get_base_layer()) in (torch.nn.Linear, Conv1D):
            module.__class__ = LowRankLinear


class LowRankLinear(Linear):
    """peft's layer, faster where nothing but one plain adapter is at work."""

    def forward(self, x: torch.Tensor, *passed: Any, **named: Any) -> torch.Tensor:
        """As peft's."""
        base: Any = self.get_base_layer()
        device = x.device.type
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        name = self._plain_adapter()
        is_frozen = not any(weight.requires_grad for weight in base.parameters())
        if name is None or passed or named or base.weight.dtype != compute or not is_frozen:
            return super().forward(x, *passed, **named)
        weight = base.weight.T if isinstance(base, Conv1D) else base.weight
        matrices: list[Any] = [x, self.lora_A[name].weight, self.lora_B[name].weight]
        x, a, b = (matrix.to(compute) for matrix in matrices)
        dropout = self.lora_dropout[name]
        dropped = None if isinstance(dropout, torch.nn.Identity) or not self.training else dropout(x)
        return _LowRank.apply(x, dropped, weight, base.bias, a, b, self.scaling[name])

    def _plain_adapter(self) -> str | None:
        """The only adapter at work, if it is low-rank matrices and nothing else."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        (name,) = self.active_adapters
        is_plain = name in self.lora_A and name not in self.lora_variant and not self.lora_bias[name]
        return name if is_plain else None


class _LowRank(torch.autograd.Function):
    """y = x Wᵀ + bias + s · (x Aᵀ) Bᵀ, where W and bias are frozen; A may be given another x, with dropout."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """(…, inputs) to (…, outputs); `a` is (rank, inputs), `b` (outputs, rank)."""
        inner = (x if dropped is None else dropped).flatten(0, -2)
        low = inner @ a.T
        y = linear(x.flatten(0, -2), weight, bias)
        y.addmm_(low, b.T, alpha=scaling)
        ctx.save_for_backward(inner, low, weight, a, b)
        ctx.scaling, ctx.is_dropped, ctx.shape = scaling, dropped is not None, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Gradients of x, of x with dropout, of A and of B."""
        inner, low, weight, a, b = ctx.saved_tensors
        of_y = gradients[0].flatten(0, -2)
        of_low = (of_y @ b).mul_(ctx.scaling)
        of_a = of_low.T @ inner
        of_b = (of_y.T @ low).mul_(ctx.scaling)
        of_x, of_dropped = None, None
        if ctx.needs_input_grad[0]:
            of_x = of_y @ weight
            if not ctx.is_dropped:
                of_x.addmm_(of_low, a)
            of_x = of_x.view(ctx.shape)
        if ctx.is_dropped and ctx.needs_input_grad[1]:
            of_dropped = (of_low @ a).view(ctx.shape)
        return of_x, of_dropped, None, None, of_a, of_b, None
