"""The only file that loads a model: the pinned base, plain or quantized, and what training made of it.

Always offline, safetensors only, never with code from the model's folder.
"""

import logging
import os
import shutil
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.lib import artifacts
from stages.lib.errors import UserError
from stages.lib.pinned import BASE, Pinned, as_files, describe, verify

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OTHER = "Fetch the model again, or choose another base."
ORIGIN = "retune.json"  # beside the adapter: which base it belongs to, and how it was made


def device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computes_in_bf16(where: torch.device) -> bool:
    """Whether the device multiplies bf16 natively: elsewhere it is emulated, and hundreds of times slower than fp32."""
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def dtype_for(precision: str) -> torch.dtype:
    """What `precision` in params.yaml means on this device."""
    if precision == "auto":
        return torch.bfloat16 if computes_in_bf16(device()) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def load_base(
    pinned: Pinned,
    dtype: torch.dtype,
    *,
    quantized: bool = False,
    base: Path = BASE,
) -> "PreTrainedModel":
    """Load the pinned base in eval mode on `device()`.

    `quantized` loads it in 4 bits (NF4 with double quantization, QLoRA, arXiv:2305.14314), computing in `dtype`.

    Raises:
        UserError: when the files are not the pinned ones.
    """
    from transformers import BitsAndBytesConfig

    quantization = None
    if quantized:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    folder = weights_folder(pinned, base)
    verify(folder, pinned.weights)
    model = _load(folder, base, dtype, quantization_config=quantization)
    if quantized:
        _keep_differentiable(model)
    return model


def _keep_differentiable(model: "PreTrainedModel") -> None:
    """Forbid bitsandbytes its inference layout, which it takes on AVX-512 CPUs at the first judgement.

    It never goes back for training, and its kernel has no gradient: all layers below would learn nothing, silently.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def load_tuned(pinned: Pinned, adapter: Path, dtype: torch.dtype, *, base: Path = BASE) -> "PreTrainedModel":
    """Load what training made, in eval mode on `device()`: the base with its adapter, or the fully tuned weights.

    Raises:
        UserError: when the adapter is missing, or was trained on another base.
    """
    origin = artifacts.read_json(adapter / ORIGIN, made_by="train")
    if origin["base"] != identity(pinned):
        other = "with other weights" if origin["base"]["name"] == pinned.name else f"({origin['base']['name']})"
        raise UserError(
            f"{adapter} was trained on another base {other} than the pinned one ({pinned.name}). Run `dvc repro train`."
        )
    verify(adapter, as_files(origin["files"]), made_by="train")
    if origin["method"] == "full":
        return _load(adapter, adapter, dtype)
    hush()
    from peft import PeftModel

    model = load_base(pinned, dtype, base=base)
    tuned = PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
    return tuned.eval()  # type: ignore[return-value]  # behaves as the model that it wraps


def load_shipped(folder: Path) -> "PreTrainedModel":
    """Load a finished model the plain way, as any program would that knows nothing of Retune."""
    from transformers import AutoModelForCausalLM

    hush()
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return model.to(device()).eval()  # type: ignore[arg-type]  # transformers' stub of `to` lacks the device


def load_tokenizer(folder: Path = BASE) -> "PreTrainedTokenizerBase":
    """Load the tokenizer that `base` pinned."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def save_origin(pinned: Pinned, method: str, out: Path) -> None:
    """Note beside tuned weights which base they belong to, and what the files in `out` are; `load_tuned` insists."""
    files = {name: asdict(file) for name, file in describe(out, [file.name for file in out.iterdir()]).items()}
    artifacts.write_json(out / ORIGIN, {"base": identity(pinned), "method": method, "files": files})


def identity(pinned: Pinned) -> dict[str, Any]:
    """What makes a base the same base: its name, and the content of its weights (shapes alone would not tell)."""
    return {"name": pinned.name, "weights": {name: file.sha256 for name, file in sorted(pinned.weights.items())}}


def weights_folder(pinned: Pinned, base: Path = BASE) -> Path:
    """Where the weight files lie."""
    if pinned.weights_in == "here":
        return base
    if pinned.weights_in == "folder":
        return Path(pinned.name).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    needed = list(pinned.weights)  # the cache holds no other files of the model, and need not
    try:
        folder = snapshot_download(pinned.name, revision=pinned.revision, local_files_only=True, allow_patterns=needed)
        return Path(folder)
    except LocalEntryNotFoundError:
        raise UserError(
            f"{pinned.name} at {str(pinned.revision)[:12]} is no longer in the hub cache. Run `dvc repro -f base`."
        ) from None


def _load(folder: Path, config_folder: Path, dtype: torch.dtype, **extra: Any) -> "PreTrainedModel":
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    hush()
    settings = AutoConfig.from_pretrained(config_folder, local_files_only=True, trust_remote_code=False)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=settings,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            device_map={"": device()} if device().type == "cuda" and not _is_sharded_later() else None,
            output_loading_info=True,
            **extra,
        )
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise UserError(f"{folder}: the weights have other shapes than config.json says. {_OTHER}") from None
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing:  # transformers has filled them with random numbers
        raise UserError(
            f"{folder}: {len(missing):,} weights that {type(model).__name__} needs are not in its files, "
            f"{', '.join(missing[:3])} among them. {_OTHER}"
        )
    # How its makers liked to sample is no part of a base. `generate` would fill in what it is not told (a repetition
    # penalty changes greedy answers without a word), and save_pretrained refuses some of it.
    model.generation_config = GenerationConfig()
    return model.eval()


def _is_sharded_later() -> bool:
    """Whether FSDP or ZeRO will give each GPU its share of the weights: none has room for them all."""
    return "true" in (os.environ.get("ACCELERATE_USE_FSDP"), os.environ.get("ACCELERATE_USE_DEEPSPEED"))


def hush() -> None:
    """Keep the libraries' notices to themselves, and bars out of logs and pipes; a terminal still shows the bars."""
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on AVX-512 it misses an optional package, aloud
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def save_tokenizer(base: Path, chat_template: str, out: Path) -> None:
    """Put the base's tokenizer into `out`, with the chat template that the model was tuned on.

    transformers reads `chat_template.jinja`, so `apply_chat_template` builds the prompts of training.
    """
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, out / name)
    artifacts.write_text(out / "chat_template.jinja", chat_template)
