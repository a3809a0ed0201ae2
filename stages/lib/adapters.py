"""Adapters as peft makes them: made from params, and saved so that they load on the plain base, on any machine."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stages.lib import artifacts, passthrough
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
