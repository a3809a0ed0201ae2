"""Pin the base model: resolve what params.yaml names to contents, so that every later stage loads just that, offline.

Reads   params.yaml: base (a hub id, a folder, a GGUF file, or a GGUF file inside an installed package)
Writes  models/base/ : base.json, the tokenizer and config; weights only where they had to be converted from GGUF
"""

import json
import math
import os
import re
import shutil
import struct
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from stages.lib import artifacts, hub, packages, runtime
from stages.lib.errors import UserError, run, warn
from stages.lib.params import load
from stages.lib.pinned import BASE, MANIFEST, Pinned, describe
from stages.params.base import BaseParams

CONFIG = "config.json"
GENERATION = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")


@dataclass(frozen=True)
class Source:
    """Where a base comes from."""

    kind: str  # hub | folder | gguf | package
    path: Path  # the folder, or the GGUF file
    revision: str | None  # the hub's commit, or the sha256 of the GGUF file


def pin(params: BaseParams, out: Path) -> Pinned:
    """Resolve the base, write its tokenizer and config into `out`, and describe its contents.

    Raises:
        UserError: when the base cannot be found, holds no safetensors, needs code of its own, or is no causal model.
    """
    source = find(params)
    if source.kind in ("gguf", "package"):
        _convert(source.path, out)
        architecture = _architecture(_json(out / CONFIG), params.name)
        weights, weights_in = describe(out, [WEIGHTS]), "here"
        folder = out
    else:
        folder = source.path
        weights, weights_in = describe(folder, weight_files(folder)), source.kind
        architecture = _copy_config(folder, out, params.name)
        _save_tokenizer(folder, out)
    small = [file.name for file in out.iterdir() if file.name not in weights]
    pinned = Pinned(
        name=params.name,
        source=source.kind,
        revision=source.revision,
        architecture=architecture,
        **_sizes(out),
        **_numbers(folder, list(weights)),
        **_special_tokens(out),
        weights_in=weights_in,
        weights=weights,
        files=describe(out, small),
    )
    artifacts.write_json(out / MANIFEST, pinned.as_json())
    _compare_vocabulary(out, pinned)
    return pinned


def find(params: BaseParams) -> Source:
    """Tell a package's file, a GGUF file, a folder and a hub id apart, in this order."""
    name = params.name
    if name.startswith("package:"):
        file = packages.find_file(name.removeprefix("package:"), "params.yaml: base.name")
        return Source("package", file, _sha256_as_pinned(file, params.revision))
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"params.yaml: base.name is {name!r}, but there is no such file. Correct the path.")
        return Source("gguf", path, _sha256_as_pinned(path, params.revision))
    if path.is_dir():
        if params.revision is not None:
            raise UserError(
                f"params.yaml: base.revision is {params.revision!r}, but {name} is a folder and has no revisions; "
                "its files are pinned by content. Set base.revision to null."
            )
        return Source("folder", path, None)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise UserError(
            f"params.yaml: base.name is {name!r}: there is no such folder or file, and it is no hub id (owner/model)."
        )
    folder, commit = hub.fetch(name, params.revision)
    return Source("hub", folder, commit)


def weight_files(folder: Path) -> list[str]:
    """The safetensors files that make up the model: one, or the shards that the index names.

    Raises:
        UserError: when there are none; pickled weights can run code when they are loaded, so they do not count.
    """
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        names = sorted(set(_json(folder / INDEX).get("weight_map", {"": WEIGHTS}).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder / INDEX} names {missing[0]}, which is not there. Fetch the whole model again.")
        return names
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED) if folder.is_dir() else []
    found = f", only {', '.join(pickled[:3])}, and pickled weights can run code when they are loaded" if pickled else ""
    raise UserError(
        f"params.yaml: base.name: {folder} holds no {WEIGHTS}{found}. "
        "Choose a base with safetensors weights, or convert it with transformers' save_pretrained."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        raise UserError(f"params.yaml: base.name: {path} is damaged: {error}. Fetch the model again.") from None
    return content


def _sha256_as_pinned(file: Path, expected: str | None) -> str:
    found = artifacts.sha256(file)
    if expected is not None and expected.removeprefix("sha256:") != found:
        raise UserError(
            f"params.yaml: base.revision is {expected!r}, but the sha256 of {file.name} is {found}. "
            "Put the right file there, or correct base.revision (null pins whatever is there)."
        )
    return found


def _convert(file: Path, out: Path) -> None:
    """De-quantize a GGUF file into safetensors of float32, which holds every value of the file exactly."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from stages.lib import models

    models.hush()
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, LookupError, NotImplementedError, struct.error) as error:
        raise UserError(
            f"params.yaml: base.name: {file.name} is no GGUF model that transformers reads, or is damaged: "
            f"{str(error).splitlines()[0]}. Fetch it again, or choose another base."
        ) from None
    # save_pretrained refuses while quantization_config is set, so the state dict is written directly. The head of a
    # tied model is its embedding: it is not written twice.
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    save_file({name: tensor.contiguous() for name, tensor in sorted(state.items())}, out / WEIGHTS, {"format": "pt"})
    del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.config._name_or_path = ""
    settings = model.config.to_dict()
    settings.pop("_model_name_or_path", None)
    artifacts.write_json(out / CONFIG, settings)
    tokenizer.save_pretrained(out)
    _forget_place(out)


def _copy_config(folder: Path, out: Path, name: str) -> str:
    """Copy what describes the model; return its architecture."""
    from transformers import AutoConfig

    if not (folder / CONFIG).is_file():
        raise UserError(f"params.yaml: base.name: {folder} holds no {CONFIG}. Name the folder of a transformers model.")
    config = _json(folder / CONFIG)
    if "quantization_config" in config:
        raise UserError(
            f"params.yaml: base.name: {folder} holds weights that are quantized already; they can be neither tuned "
            "nor merged. Name the full-precision model; train.method qlora quantizes it on the fly."
        )
    if "auto_map" in config:
        raise UserError(
            f"params.yaml: base.name: {folder} needs Python code of its own (auto_map in {CONFIG}), which Retune never "
            "runs. Choose a base whose architecture transformers knows."
        )
    architecture = _architecture(config, name)
    try:
        AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # foreign settings: whatever reading them raises is the verdict on them
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(
            f"params.yaml: base.name: {folder / CONFIG} cannot be used: {reason}. Choose another base."
        ) from None
    shutil.copyfile(folder / CONFIG, out / CONFIG)
    if (folder / GENERATION).is_file():
        shutil.copyfile(folder / GENERATION, out / GENERATION)
    return architecture


def _save_tokenizer(folder: Path, out: Path) -> None:
    """Save the tokenizer as transformers reads it: slow ones become tokenizer.json, the chat template a Jinja file."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # Where the vocabulary is missing, transformers may make a tokenizer that knows not one piece.
        readable = bool(tokenizer("a", add_special_tokens=False).input_ids)
        tokenizer.save_pretrained(out)
    except Exception:  # foreign files, and libraries that raise what they please
        readable = False
    if not readable or not (out / "tokenizer.json").is_file():
        raise UserError(
            f"params.yaml: base.name: {folder} holds no tokenizer that can be read: tokenizer.json is needed, or "
            "vocab.json with merges.txt. Fetch it; a lone tokenizer.model must be converted once, by AutoTokenizer and "
            "save_pretrained where sentencepiece is installed."
        )
    _forget_place(out)


def _forget_place(out: Path) -> None:
    """Drop the folder that transformers notes in the tokenizer's settings: two clones must write the same bytes."""
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key in ("name_or_path", "_name_or_path", "is_local", "local_files_only"):
        settings.pop(key, None)
    artifacts.write_json(path, settings)


def _architecture(config: dict[str, Any], name: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.get("model_type", ""))
    if known is None:
        raise UserError(
            f"params.yaml: base.name: {name} is of type {config.get('model_type')!r}, which this version of "
            "transformers does not know as a causal language model. Choose another base."
        )
    return known if isinstance(known, str) else known[0]


def _sizes(folder: Path) -> dict[str, Any]:
    """Tokens that the model reads at once (recurrent models set no bound of their own), and rows of its embedding."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    context = int(getattr(config, "max_position_embeddings", None) or 2**31 - 1)
    return {"context": context, "vocab_size": int(config.vocab_size)}


def _numbers(folder: Path, names: list[str]) -> dict[str, Any]:
    """Parameters and the commonest dtype, out of the headers of the weight files."""
    sizes: Counter[str] = Counter()
    for name in names:
        try:
            with safe_open(folder / name, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118  # a safetensors file is no mapping
                    part = file.get_slice(key)
                    sizes[part.get_dtype()] += math.prod(part.get_shape())
        except SafetensorError as error:
            raise UserError(
                f"params.yaml: base.name: {folder / name} is no whole safetensors file ({error}). Fetch it again; in "
                "a git clone, `git lfs pull` fetches it."
            ) from None
    if not sizes:
        raise UserError(f"params.yaml: base.name: {folder} holds no weights, only empty files. Fetch the model again.")
    commonest = max(sorted(sizes), key=lambda kind: sizes[kind])
    names_of = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return {"parameters": sizes.total(), "dtype": names_of.get(commonest, commonest)}


def _special_tokens(folder: Path) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    first = tokenizer("a", add_special_tokens=True).input_ids[:1]
    return {
        "bos": tokenizer.bos_token,
        "eos": tokenizer.eos_token,
        "pad": tokenizer.pad_token,
        "unk": tokenizer.unk_token,
        "adds_bos": tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id],
    }


def _compare_vocabulary(folder: Path, pinned: Pinned) -> None:
    """Fewer tokens than rows are common, and harmless; a token without a row stops training if it is ever used."""
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    if tokens > pinned.vocab_size:
        warn(
            f"{pinned.name}: the tokenizer knows {tokens:,} tokens, the model has rows for {pinned.vocab_size:,}. "
            "Do not use the last ones in a template."
        )


def _summary(pinned: Pinned) -> str:
    size = sum(file.size for file in pinned.weights.values())
    return (
        f"base: {pinned.name} · {pinned.architecture} · {pinned.parameters / 1e6:,.1f} M parameters · "
        f"{size / 1e6:,.0f} MB {pinned.dtype} ({pinned.weights_in}) → {BASE / MANIFEST}"
    )


def main() -> None:
    """Run the stage."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported, which only the libraries below do
    params = load(BaseParams)
    with runtime.measured("base"), artifacts.replacing(BASE) as out:
        pinned = pin(params, out)
    print(_summary(pinned))


if __name__ == "__main__":
    run(main)
