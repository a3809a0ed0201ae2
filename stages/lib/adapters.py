"""Adapters as peft makes them: made from params, and saved so that they load on the plain base, on any machine."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stages.lib import artifacts, passthrough
from stages.lib.errors import UserError
from stages.lib.pinned import Pinned
from stages.params.train import LoraParams

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

CHANGES_BASE = ("pissa", "olora")  # beginnings that move a part of the base's weights into the adapter


def config(params: LoraParams) -> "LoraConfig":
    """What peft is told.

    Raises:
        UserError: as `passthrough.configured`.
    """
    from peft import LoraConfig

    own = {
        "r": params.r,
        "lora_alpha": params.alpha,
        "lora_dropout": params.dropout,
        "target_modules": params.target_modules,
        "modules_to_save": params.modules_to_save or None,
        "use_rslora": params.use_rslora,
        "use_dora": params.use_dora,
        "init_lora_weights": params.init_lora_weights if params.init_lora_weights != "default" else True,
        "task_type": "CAUSAL_LM",
    }
    return passthrough.configured(LoraConfig, own, params.more, "train.lora.more")


def drawn(drawing: Any, adapter: "LoraConfig") -> Any:
    """The drawing of a model with the adapter in it: params that do not fit the model show before it is loaded.

    Raises:
        UserError: what the params name is not there, or they ask for what its layers cannot give.
    """
    import torch
    from peft import get_peft_model

    _require_saved(drawing, adapter)
    kinds = ("Linear", "Conv1D")
    names = {name.rpartition(".")[2] for name, module in drawing.named_modules() if type(module).__name__ in kinds}
    without_values = copy.deepcopy(adapter)
    without_values.init_lora_weights = False  # PiSSA and the like would look at the weights
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            made = get_peft_model(drawing, without_values)
    except (ValueError, TypeError) as error:
        if "arget modules" not in str(error) and "lm_head" not in str(error):
            raise UserError(f"params.yaml: train.lora was refused: {error}") from None
        raise UserError(
            "params.yaml: train.lora.target_modules matches nothing that can be tuned in this model. It has "
            f"{', '.join(sorted(names - {'lm_head'}))}. Name some of these in a list, write one regular expression "
            "that matches whole module paths, or use all-linear."
        ) from None
    _require_ranks(made, str(adapter.init_lora_weights))
    return made


def _require_saved(drawing: Any, adapter: "LoraConfig") -> None:
    """Peft passes over names that match nothing."""
    for name in adapter.modules_to_save or []:
        if not any(known.endswith(name) for known, _ in drawing.named_modules()):
            known = sorted({known.rpartition(".")[2] for known, module in drawing.named_modules() if _is_leaf(module)})
            raise UserError(
                f"params.yaml: train.lora.modules_to_save names {name}, which this model does not have. It has "
                f"{', '.join(known)}."
            )


def _require_ranks(drawing: Any, kind: str) -> None:
    """Some beginnings are parts of the layer's own matrix, and there are no more than it is wide; one is of pairs."""
    layers = [(name, layer) for name, layer in drawing.named_modules() if getattr(layer, "lora_A", None)]
    for name, layer in sorted(layers, key=lambda one: min(one[1].in_features, one[1].out_features)):
        rank, width = layer.r["default"], min(layer.in_features, layer.out_features)
        where = f"params.yaml: train.lora.r is {rank}"
        if kind == "orthogonal" and rank % 2:
            raise UserError(f"{where}, and init_lora_weights orthogonal needs an even number. Take {rank + 1}.")
        if kind.startswith(CHANGES_BASE) and rank > width:
            raise UserError(
                f"{where}, but {name.rpartition('.')[2]} is only {width} wide, and init_lora_weights {kind} can give "
                f"no more. Lower r to {width}, or choose another init_lora_weights."
            )


def _is_leaf(module: Any) -> bool:
    """Whether it has weights of its own, and no parts."""
    return not list(module.children()) and bool(list(module.parameters()))


class Beginning:
    """The adapter as it was before the first step, where that has changed the base's weights (PiSSA, OLoRA).

    Such an adapter alone is worth nothing: the base it belongs to is nowhere. What training added is told as a plain
    LoRA of twice the rank on the plain base, ΔW = AB - A₀B₀ (arXiv:2404.02948, appendix C).
    """

    def __init__(self, model: Any) -> None:
        self.folder: TemporaryDirectory[str] | None = None
        if str(model.peft_config["default"].init_lora_weights).startswith(CHANGES_BASE):
            self.folder = TemporaryDirectory(prefix="retune-")
            model.save_pretrained(str(self.path), save_embedding_layers=False)

    @property
    def path(self) -> Path | None:
        """Where it lies; None where the base stayed as it was."""
        return Path(self.folder.name) / "beginning" if self.folder else None


def save(model: "PeftModel", weights: dict[str, Any] | None, pinned: Pinned, beginning: Beginning, out: Path) -> None:
    """Write a LoRA adapter, which names the pinned base; `weights` if they are not the model's own."""
    model.peft_config["default"].base_model_name_or_path = pinned.name
    if pinned.source == "hub":
        model.peft_config["default"].revision = pinned.revision
    # Only embeddings that were trained would have to be saved; peft would ask the hub whether they were.
    path = str(beginning.path) if beginning.path else None
    model.save_pretrained(
        str(out), state_dict=weights, save_embedding_layers=False, path_initial_model_for_weight_conversion=path
    )
    (out / "README.md").unlink(missing_ok=True)  # peft's empty model card
    # peft keeps module names in a set, whose order changes with the hash seed of the process.
    document = artifacts.read_json(out / "adapter_config.json", made_by="train")
    for name in ("target_modules", "modules_to_save"):
        if isinstance(document[name], list):
            document[name].sort()
    artifacts.write_json(out / "adapter_config.json", document)
