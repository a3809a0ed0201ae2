"""A small working folder as the stages leave it: a pinned tiny base, prompts that can be learned, packed rows."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages import base as base_stage
from stages import tokenize as tokenize_stage
from stages import train as train_stage
from stages.lib import artifacts, prompts
from stages.lib.params import sections
from tests import bases, tiny

SPECIALS = ("<|im_start|>", "<|im_end|>")
LORA: dict[str, Any] = {
    "r": 4,
    "alpha": 8,
    "dropout": 0.0,
    "target_modules": "all-linear",
    "modules_to_save": [],
    "use_rslora": False,
    "use_dora": False,
    "init_lora_weights": "default",
    "lr_ratio": 1.0,
    "more": {},
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "fast pissa": {"init_lora_weights": "pissa_niter_16"},
    "olora": {"init_lora_weights": "olora"},
    "pissa with rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "lora+": {"lr_ratio": 8.0},
    "a head of its own": {"modules_to_save": ["lm_head"]},
    "head and embedding": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "by name": {"target_modules": ["q_proj", "v_proj"]},
    "by pattern": {"target_modules": r".*\.(q|v)_proj"},
    "passed through": {"target_modules": ["q_proj", "up_proj"], "more": {"layers_to_transform": [1]}},
}


def save_tiny_model(folder: Path, kind: str = "llama") -> Path:
    """A folder as a hub model would be: safetensors, config, tokenizer, chat template."""
    tokenizer_json = bases.byte_level(*SPECIALS)
    bases.write_base(folder, tokenizer_json, chat_template=bases.SMOL, eos="<|im_end|>", pad="<|im_end|>")
    (folder / "base.json").unlink()
    makers = {"llama": tiny.tiny_llama, "gpt2": tiny.tiny_gpt2, "qwen2": tiny.tiny_qwen2}
    makers[kind](initializer_range=0.02).save_pretrained(folder)
    return folder


def rows(count: int, seed: int = 0, longest: int = 4) -> list[dict[str, Any]]:
    """Prompts whose answer stands in them."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        answer = " ".join(draw.choice("0123456789") for _ in range(draw.randint(1, longest)))
        prompt = f"<|im_start|>user\nRead the order number {answer}<|im_end|>\n<|im_start|>assistant\n"
        segments = [
            {"text": prompt, "trained": False, "literal": False},
            {"text": answer + "<|im_end|>", "trained": True, "literal": False},
        ]
        row = {"id": f"{seed:02}-{number:04}", "category": f"c{number % 2}", "group": f"{seed}-{number}"}
        made.append(row | {"segments": segments, "prompt": prompt, "reference": answer, "weight": 1.0})
    return made


def write_prompts(folder: Path, train: int = 24, validation: int = 6, test: int = 8, longest: int = 4) -> None:
    """`data/prompts` with its template."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train": train, "validation": validation, "test": test}.items()):
        table = pa.Table.from_pylist(rows(count, seed, longest), schema=prompts.SCHEMA)
        artifacts.write_parquet(folder / f"{name}.parquet", table)
    template = {"template": "tokenizer", "chat_template": bases.SMOL, "stop": ["<|im_end|>"], "lead": ""}
    artifacts.write_json(folder / "template.json", template | {"bos": None, "eos": "<|im_end|>", "pad": "<|im_end|>"})


def make(root: Path, kind: str = "llama", max_length: int = 96, pack: bool = True, **sizes: int) -> Path:
    """Everything that training needs, below `root`."""
    model = save_tiny_model(root / "origin", kind)
    with artifacts.replacing(root / "models/base") as out:
        base_stage.pin(params("base", name=str(model), revision=None), out)
    write_prompts(root / "data/prompts", **sizes)
    with artifacts.replacing(root / "data/packed") as out:
        settings = params("tokenize", max_length=max_length, pack=pack)
        tokenize_stage.tokenize(root / "data/prompts", root / "models/base", out, settings, seed=7)
    return root


def params(section: str, **overrides: Any) -> Any:
    """A section of params.yaml with overrides."""
    from ruamel.yaml import YAML

    document = YAML(typ="safe", pure=True).load(Path(__file__).parent.parent.joinpath("params.yaml").read_text("utf-8"))
    return sections()[section].model_validate(document[section] | overrides)


def tune(root: Path, out: Path, state: Path | None = None, **overrides: Any) -> train_stage.Tuned:
    """Train in this process; by default four steps of two rows."""
    settings = {"lr": 5e-3, "max_steps": 4, "epochs": 9, "evals_per_epoch": 2} | overrides
    out.mkdir(parents=True)
    state = state or out.with_name(out.name + "-state")
    live = out.with_name(out.name + "-live.csv")
    return train_stage.train(
        root / "data/packed", root / "models/base", out, state, params("train", **settings), seed=7, live=live
    )
