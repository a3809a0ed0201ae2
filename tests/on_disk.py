"""Bases as they lie on a disk: folders of a tiny model, GGUF files, and packages that carry one."""

import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from tests import bases, tiny, workspace


def model_folder(folder: Path, kind: str = "llama") -> Path:
    """A tiny model with its tokenizer, as a hub has it; `kind` is llama, gpt2 or qwen2."""
    return workspace.save_tiny_model(folder, kind)


def make_sharded(folder: Path) -> list[str]:
    """Spread the weights of a model folder over two files with an index; return the names of the two."""
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    keys = sorted(state)
    parts = {names[0]: keys[: len(keys) // 2], names[1]: keys[len(keys) // 2 :]}
    for name, part in parts.items():
        save_file({key: state[key] for key in part}, folder / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for name, part in parts.items() for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return names


def make_slow(folder: Path) -> None:
    """Put vocab.json and merges.txt in place of tokenizer.json."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_gguf(path: Path) -> Any:
    """Write a tiny Llama, its tokenizer and its chat template as one GGUF file; return the model."""
    import gguf
    import numpy as np

    specials = workspace.SPECIALS
    tokenizer = json.loads(bases.byte_level(*specials))["model"]
    pieces = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    model = tiny.tiny_llama(vocabulary=len(pieces))
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(pieces)
    writer.add_token_types([gguf.TokenType.CONTROL if piece in specials else gguf.TokenType.NORMAL for piece in pieces])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    writer.add_chat_template(bases.SMOL)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight":
            continue  # tied
        values = tensor.numpy()
        if (count := heads.get(key.split(".")[-2])) is not None:
            # llama.cpp rotates neighbours, transformers halves: the rows of each head change places.
            values = values.reshape(count, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def install(site: Path, module: str, file: Path) -> Path:
    """Lay `file` out as an installed package would have it, with its RECORD; return the installed file."""
    folder = site / module
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('the package was imported')\n", encoding="utf-8")
    installed = Path(shutil.copy(file, folder))
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
    (info / "top_level.txt").write_text(f"{module}\n", encoding="utf-8")
    digest = base64.urlsafe_b64encode(hashlib.sha256(installed.read_bytes()).digest()).rstrip(b"=").decode()
    record = f"{module}/__init__.py,,\n{module}/{file.name},sha256={digest},{installed.stat().st_size}\n"
    (info / "RECORD").write_text(record, encoding="utf-8")
    return installed
