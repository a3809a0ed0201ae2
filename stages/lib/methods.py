"""What each method trains: lora an adapter beside the base, qlora one beside a base in 4 bits, full every weight."""

import importlib.metadata
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.lib import attention, launch, low_rank, models
from stages.lib.errors import UserError
from stages.lib.pinned import Pinned
from stages.params.train import TrainParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def prepare(pinned: Pinned, base: Path, params: TrainParams, dtype: torch.dtype, *, packs: bool) -> "PreTrainedModel":
    """The base, loaded the way the method trains it. Frozen weights need no more than the compute type.

    Raises:
        UserError: when the base cannot keep the examples of a packed row apart (`packs`: there is such a row), or as
            `freeze`.
    """
    weights = torch.float32 if params.method == "full" else dtype
    model = models.load_base(pinned, weights, quantized=params.method == "qlora", base=base)
    print(f"train: attention by {attention.prepare(model, packs=packs, compute=dtype, compiles=params.compile)}")
    freeze(model, params)
    if params.method == "qlora":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=params.recomputes)
    return model


def freeze(model: "PreTrainedModel", params: TrainParams) -> None:
    """Leave the weights that `train.freeze` names as they are.

    Raises:
        UserError: when it names none, or all, of the model's; or when the method is not full.
    """
    if params.freeze and params.method != "full":
        raise UserError(
            "params.yaml: train.freeze is for train.method full; an adapter trains nothing of the base in any case. "
            "Set it to [], and choose with train.lora.target_modules what is tuned."
        )
    for pattern in params.freeze:
        named = [weight for name, weight in model.named_parameters() if re.search(pattern, name)]
        if not named:
            some = ", ".join(name for name, _ in itertools.islice(model.named_parameters(), 3))
            raise UserError(f"params.yaml: train.freeze: {pattern} matches no weight of this model, as {some} are.")
        for weight in named:
            weight.requires_grad = False
    if not any(weight.requires_grad for weight in model.parameters()):
        raise UserError("params.yaml: train.freeze names every weight of this model. Leave some to be trained.")


def liger() -> str | None:
    """The version of liger-kernel, if a GPU is there and the package is installed.

    Its norms, rotations and gated layers take fewer passes (arXiv:2410.10989); TRL puts them in, where they know the
    model, and leaves out Liger's loss, which would take the place of its own.
    """
    from transformers.utils import is_liger_kernel_available

    is_usable = torch.cuda.is_available() and is_liger_kernel_available()
    return importlib.metadata.version("liger_kernel") if is_usable else None


def complete(model: Any, params: TrainParams) -> None:
    """Once the adapter is in: keep what is trained exact, and the adapter's layers fast where they are plain."""
    _keep_trained_in_fp32(model)
    if params.method != "full" and not params.compile and not launch.shards(launch.settings(params.launch)):
        low_rank.speed_up(model)


def _keep_trained_in_fp32(model: Any) -> None:
    """Undo TRL's rounding of a quantized base's adapter to bf16, and that of whole modules beside a base in bf16.

    In bf16 an update smaller than a 250th of the weight is lost, and peft loads checkpoints as fp32 in any case: a
    resumed run would go on with other arithmetic.
    """
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.float32)
