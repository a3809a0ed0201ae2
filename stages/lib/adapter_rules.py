"""What an adapter may ask of a model: looked up on a drawing of it, before any weight is loaded.

peft passes over some of these mistakes, tells of others after training, and of others by a traceback.
"""

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stages.lib.adapters import CHANGES_BASE
from stages.lib.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig

# Of train.lora.more: what says where and how large an adapter is, and leaves it a plain product of two matrices.
_PLAIN = ("alpha_pattern", "exclude_modules", "layers_pattern", "layers_to_transform", "rank_pattern")


def drawn(drawing: Any, adapter: "LoraConfig", *, more: Iterable[str], quantized: bool, in_shares: bool) -> Any:
    """The drawing of a model with the adapter in it.

    Args:
        drawing: a model on the meta device, which is changed.
        adapter: peft's config.
        more: what train.lora.more holds.
        quantized: whether the base is going to be in 4 bits.
        in_shares: whether each of several processes is going to hold a part of the weights.

    Raises:
        UserError: params name what the model does not have, or ask for what cannot be.
    """
    import torch
    from peft import get_peft_model

    _require_saved(drawing, adapter, in_shares)
    known = [name for name, module in drawing.named_modules() if type(module).__name__ in ("Linear", "Conv1D")]
    head = next((name for name, module in drawing.named_modules() if module is drawing.get_output_embeddings()), "")
    without_values = copy.deepcopy(adapter)
    without_values.init_lora_weights = False  # PiSSA and the like would look at the weights
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            made = get_peft_model(drawing, without_values)
    except (ValueError, TypeError) as error:
        if "arget modules" in str(error):
            _refuse_targets("matches nothing that can be tuned in this model", known, head)
        raise UserError(f"params.yaml: train.lora was refused: {error}") from None
    _require_targets(made, adapter, known, head)
    _require_beginning(made, adapter, more, quantized=quantized, in_shares=in_shares)
    return made


def _require_saved(drawing: Any, adapter: "LoraConfig", in_shares: bool) -> None:
    modules = dict(drawing.named_modules())
    for name in adapter.modules_to_save or []:
        found = [module for known, module in modules.items() if known.endswith(name)]
        if not found:
            leaves = sorted({known.rpartition(".")[2] for known, module in modules.items() if _is_leaf(module)})
            raise UserError(
                f"params.yaml: train.lora.modules_to_save names {name}, which this model does not have. It has "
                f"{', '.join(leaves)}."
            )
        tied = (drawing.get_output_embeddings(), drawing.get_input_embeddings())
        if in_shares and drawing.config.get_text_config().tie_word_embeddings and any(one in tied for one in found):
            raise UserError(
                f"params.yaml: train.lora.modules_to_save names {name}, which shares its weights with another layer of "
                "this model; they cannot be spread over processes twice. Take it out, or set train.launch.config to "
                "null."
            )


def _require_targets(made: Any, adapter: "LoraConfig", known: list[str], head: str) -> None:
    """A name in a list that matches nothing beside others that do is a slip; an adapter on the head is never trained.

    The loss multiplies hidden states by the head's weights alone (TRL's, and ours).
    """
    tuned = [name.removeprefix("base_model.model.") for name, layer in made.named_modules() if _is_adapted(layer)]
    named = adapter.target_modules if isinstance(adapter.target_modules, list | set) else []
    for name in sorted(named):
        if not any(one == name or one.endswith(f".{name}") for one in tuned):
            _refuse_targets(f"names {name}, which matches nothing that can be tuned in this model", known, head)
    if head in tuned:
        raise UserError(
            f"params.yaml: train.lora.target_modules matches {head}, on which an adapter would never be trained. Take "
            "it out; to train it whole, name it in train.lora.modules_to_save."
        )


def _refuse_targets(what: str, known: list[str], head: str) -> None:
    names = sorted({name.rpartition(".")[2] for name in known if name != head})
    raise UserError(
        f"params.yaml: train.lora.target_modules {what}. It has {', '.join(names)}. Name some of these in a list, "
        "write one regular expression that matches whole module paths, or use all-linear."
    ) from None


def _require_beginning(
    made: Any, adapter: "LoraConfig", more: Iterable[str], *, quantized: bool, in_shares: bool
) -> None:
    """PiSSA and OLoRA are parts of the layers' own matrices, and saved as a difference of plain LoRAs."""
    kind = str(adapter.init_lora_weights)
    layers = [(name, layer) for name, layer in made.named_modules() if _is_adapted(layer)]
    reasons = []
    if kind == "orthogonal":
        odd = {rank for _, layer in layers if (rank := layer.r["default"]) % 2}
        reasons += [f"needs even ranks, and train.lora.r is {rank}; take {rank + 1}" for rank in sorted(odd)]
    if kind in ("orthogonal", "pissa", "pissa_niter_16") and quantized:
        reasons.append("needs the base's weights as they are, and train.method qlora rounds them; use lora")
    if kind.startswith(CHANGES_BASE):
        conv = any(type(layer.get_base_layer()).__name__ == "Conv1D" for _, layer in layers)
        patterns = adapter.use_rslora and (adapter.rank_pattern or adapter.alpha_pattern)
        embeddings = [name.rpartition(".")[2] for name, layer in layers if len(layer.lora_embedding_A)]
        checks = {
            "does not go with train.lora.use_dora": adapter.use_dora,
            "does not go with train.lora.modules_to_save": adapter.modules_to_save,
            "does not go with train.lora.use_rslora and patterns of ranks together": patterns,
            "does not know the layers of this model; take pissa": kind == "olora" and conv,
            "does not go with weights in shares; set train.launch.config to null": in_shares,
        }
        reasons += [reason for reason, holds in checks.items() if holds]
        reasons += [f"does not go with {name} in train.lora.more" for name in more if name not in _PLAIN]
        reasons += [f"does not go with {name} as a target, which is an embedding" for name in embeddings]
        for name, layer in layers:
            rank, width = layer.r["default"], min(layer.in_features, layer.out_features)
            if rank > width and name.rpartition(".")[2] not in embeddings:
                reasons.append(f"gives {name.rpartition('.')[2]} at most a rank of {width}; lower train.lora.r")
    if reasons:
        raise UserError(f"params.yaml: train.lora.init_lora_weights {kind} {reasons[0]}, or choose another beginning.")


def _is_adapted(module: Any) -> bool:
    return bool(getattr(module, "lora_A", None) or getattr(module, "lora_embedding_A", None))


def _is_leaf(module: Any) -> bool:
    """Whether it has weights of its own, and no parts."""
    return not list(module.children()) and bool(list(module.parameters()))
