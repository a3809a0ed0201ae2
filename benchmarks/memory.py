"""How near the estimate of memory comes to what training takes.

`python -m benchmarks.memory [--only SHAPE]` trains random models of some common builds for three steps, each in a
process of its own, and prints the estimate beside the peak. On a CPU that is the largest resident set, less what the
process held once all libraries were loaded; on a GPU the most that PyTorch had reserved.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from stages.lib import artifacts, packing
from stages.lib.memory import GIB

VOCABULARY = 32_000
DOCUMENT = 64  # tokens of an example, a fifth of which are trained
TRAINED = 13
SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "Llama 14 M": ("Llama", {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8}),
    "Llama 78 M": ("Llama", {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 16}),
    "Qwen2 137 M": ("Qwen2", {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 18}),
    "GPT-2 61 M": ("GPT2", {"n_embd": 576, "n_layer": 10, "n_head": 9}),
}


@dataclass(frozen=True)
class Case:
    """One run."""

    shape: str
    method: str
    precision: str
    batch_size: int
    length: int
    checkpointing: bool = False
    dropout: float = 0.0


def cases() -> Iterator[Case]:
    """Every shape by every method, then one of them by size of the batch, precision, checkpointing and dropout."""
    for shape in SHAPES:
        for method in ("lora", "qlora", "full"):
            yield Case(shape, method, "auto", 4, 512)
            yield Case(shape, method, "auto", 4, 512, checkpointing=True)
    base = Case("Llama 78 M", "lora", "auto", 4, 512)
    for batch_size, length in ((1, 512), (2, 1024), (8, 512)):
        yield replace(base, batch_size=batch_size, length=length)
    yield replace(base, precision="fp32")
    yield replace(base, precision="fp32", method="full")
    yield replace(base, dropout=0.1)


def model_of(shape: str) -> Any:
    """A model with random weights."""
    import transformers

    family, settings = SHAPES[shape]
    settings = settings | {"vocab_size": VOCABULARY}
    if family != "GPT2":
        settings |= {"num_attention_heads": settings["hidden_size"] // 64, "num_key_value_heads": 1}
        settings |= {"tie_word_embeddings": True, "max_position_embeddings": 4096}
    else:
        settings |= {"n_positions": 4096}
    return getattr(transformers, f"{family}ForCausalLM" if family != "GPT2" else "GPT2LMHeadModel")(
        getattr(transformers, f"{family}Config")(**settings)
    )


def workspace(folder: Path, case: Case) -> None:
    """A pinned base and packed rows for three steps."""
    from stages import base
    from stages.lib import models
    from tests import bases, workspace

    tokenizer = bases.byte_level(*workspace.SPECIALS)
    bases.write_base(folder / "origin", tokenizer, chat_template=bases.SMOL, eos="<|im_end|>", pad="<|im_end|>")
    (folder / "origin/base.json").unlink()
    models.hush()
    model_of(case.shape).save_pretrained(folder / "origin")
    (folder / "base").mkdir()
    base.pin(workspace.params("base", name=str(folder / "origin"), revision=None), folder / "base")
    rows = 3 * case.batch_size
    ids = np.random.default_rng(7).integers(0, VOCABULARY, (rows, case.length)).astype(np.int32)
    labels = np.where(np.arange(case.length) % DOCUMENT >= DOCUMENT - TRAINED, ids, -100).astype(np.int32)
    documents = [[DOCUMENT] * (case.length // DOCUMENT)] * rows
    weights = [[1.0] * (case.length // DOCUMENT)] * rows
    columns = {"input_ids": list(ids), "labels": list(labels), "seq_lengths": documents, "weights": weights}
    columns |= {"example_ids": [[]] * rows}
    packed = folder / "packed"
    packed.mkdir()
    artifacts.write_arrow(packed / "train.arrow", pa.table(columns, schema=packing.SCHEMA))
    artifacts.write_arrow(packed / "validation.arrow", pa.table(columns, schema=packing.SCHEMA)[:0])
    split = {
        name: {
            "file": f"{name}.arrow",
            "sha256": artifacts.sha256(packed / f"{name}.arrow"),
            "rows": count,
            "examples": count * case.length // DOCUMENT,
            "tokens": count * case.length,
            "dropped": 0,
        }
        for name, count in (("train", rows), ("validation", 0))
    }
    manifest = {"max_length": case.length, "pad_token_id": 0, "splits": split}
    artifacts.write_json(packed / "manifest.json", manifest)
    artifacts.write_json(packed / "template.json", {"chat_template": bases.SMOL})


def weigh(case: Case) -> None:
    """Train, and print what was estimated and what was taken, in GiB."""
    import psutil
    import torch

    from stages import train
    from stages.lib import models
    from tests import workspace as made

    models.hush()
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401

    import stages.lib.trainer  # noqa: F401

    lora = made.LORA | {"r": 16, "alpha": 32, "dropout": case.dropout}
    settings = {
        "method": case.method,
        "precision": case.precision,
        "batch_size": case.batch_size,
        "accumulation": 1,
        "epochs": 1,
        "gradient_checkpointing": case.checkpointing,
        "lora": lora,
    }
    folder = Path.cwd()
    before = psutil.Process().memory_info().rss
    (folder / "out").mkdir()
    tuned = train.train(
        folder / "packed",
        folder / "base",
        folder / "out",
        folder / "state",
        made.params("train", **settings),
        seed=7,
        live=folder / "live.csv",
    )
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before  # Linux counts in KiB
    if torch.cuda.is_available():
        taken = torch.cuda.max_memory_reserved()
    print(json.dumps({"taken": taken / GIB, **tuned.memory["memory_gib"]}))


def run(case: Case) -> dict[str, float]:
    """Weigh a case in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="retune-") as name:
        workspace(Path(name), case)
        command = [sys.executable, "-m", "benchmarks.memory", "--case", json.dumps(asdict(case))]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, cwd=name, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="a part of the shape's name")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        weigh(Case(**json.loads(arguments.case)))
        return
    parts = ("weights", "optimizer", "activations", "logits", "other")
    print(f"| | batch | taken | estimate | {' | '.join(parts)} | ratio |\n|{'---|' * (len(parts) + 5)}")
    ratios = []
    for case in cases():
        if arguments.only and arguments.only not in case.shape:
            continue
        found = run(case)
        ratios.append(found["total"] / found["taken"])
        more = (", checkpointing" if case.checkpointing else "") + (f", dropout {case.dropout}" if case.dropout else "")
        name = f"{case.shape}, {case.method}, {case.precision}{more}"
        figures = " | ".join(f"{found[part]:.2f}" for part in ("taken", "total", *parts))
        print(f"| {name} | {case.batch_size} × {case.length} | {figures} | {ratios[-1]:.2f} |", flush=True)
    print(f"\nestimate / taken: {min(ratios):.2f} … {max(ratios):.2f}, median {median(ratios):.2f}")


if __name__ == "__main__":
    main()
