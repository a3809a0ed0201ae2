"""Useful tokens a second in training, beside TRL on the same rows, model, LoRA and optimizer.

`python -m benchmarks.train [--raw FILE] [--rows N] [--max-length L] [--batch B] [--steps N] [--rounds N]` makes packed
rows of raw ones in a temporary folder, with our own stages. Then Retune, TRL with `packing=True` (bfd) and TRL with
padded batches train one epoch on these examples, or some steps of it, in turn, each in a process of its own. TRL is
given the very tokens and labels, and as many examples a step. A useful token is one of an example: padding is none, and
what examples have in common counts for each. The time is that of the training loop.

Afterwards one and the same code judges all adapters on the validation split. Matrix products are timed in the same run:
what they reach is the peak, and the products of a step, counted by PyTorch, tell what share of it training reaches.

The base is the one in models/base: `python -m stages.base` first. `--shape NAME` takes random weights in that shape and
that base's tokenizer, `--method qlora` puts them into 4 bits, `--attention` names what TRL shall take on a GPU.
"""

import argparse
import json
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

from ruamel.yaml import YAML

from benchmarks.turns import in_turn, timed
from stages.lib import artifacts
from stages.lib.pinned import BASE, MANIFEST, load_pinned
from stages.params.train import TrainParams

ROOT = Path(__file__).parents[1]
OURS, PACKED, PADDED = "Retune", "TRL packed", "TRL padded"
RUNS = {"retune": OURS, "trl-packed": PACKED, "trl-padded": PADDED}
EXAMPLES_AT_ONCE = 8  # of TRL's padded batches: its own default
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product is timed
OUT = Path("outcome.json")
SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "qwen2-0.5b": (
        "Qwen2",
        {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
        | {"num_attention_heads": 14, "num_key_value_heads": 2},
    ),
    "llama-1b": (
        "Llama",
        {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
        | {"num_attention_heads": 32, "num_key_value_heads": 8},
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What one run took and gave."""

    tokens_per_second: float  # useful ones
    gib: float  # the most memory that the process held
    losses: list[float]  # a step
    held_out: float = math.nan  # nats a trained token


def workspace(folder: Path, chosen: argparse.Namespace) -> None:
    """Packed rows, and all else that `stages.train` needs, in a folder of its own."""
    for part in ("stages", "templates", "data/unsafe.txt"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / part, folder / part)  # type: ignore[operator]
    (folder / "models").mkdir()
    if chosen.shape:
        random_base(folder, chosen.shape)
    else:
        (folder / BASE).symlink_to((ROOT / BASE).resolve())
    settings = YAML().load(ROOT / "params.yaml")
    settings["split"] |= {"validation": 0.1, "test": 0.0}
    settings["tokenize"] |= {"max_length": chosen.max_length, "pack": True}
    settings["train"] |= {"method": chosen.method, "epochs": 1, "max_steps": chosen.steps}
    settings["train"] |= {"batch_size": chosen.batch, "accumulation": 1}
    settings["train"] |= {"scheduler": "constant", "warmup": 0.0, "weight_decay": 0.0, "evals_per_epoch": 1}
    settings["train"] |= {"gradient_checkpointing": False, "early_stopping": None, "lr": 2e-4}
    settings["train"]["lora"] |= {"dropout": 0.0}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(settings, file)
    (folder / "data/raw").mkdir(parents=True)
    raw = [chosen.raw] if chosen.raw.is_file() else sorted(path for path in chosen.raw.iterdir() if path.is_file())
    for source in raw:
        shutil.copyfile(source, folder / "data/raw" / source.name)
    timed(folder, "-m", "stages.validate")
    if chosen.rows is not None:
        records = artifacts.read_parquet(folder / "data/clean/records.parquet", made_by="validate")
        artifacts.write_parquet(folder / "data/clean/records.parquet", records.slice(0, chosen.rows))
    for stage in ("split", "format", "tokenize"):
        timed(folder, "-m", f"stages.{stage}")


def random_base(folder: Path, shape: str) -> None:
    """A pinned base of this shape with random weights, and the tokenizer of the base in models/base."""
    import torch
    import transformers

    from stages import base
    from stages.lib import models
    from stages.params.base import BaseParams

    models.hush()
    family, sizes = SHAPES[shape]
    origin = folder / "origin"
    shutil.copytree(ROOT / BASE, origin, ignore=shutil.ignore_patterns("*.safetensors", MANIFEST))
    described = artifacts.read_json(origin / "config.json", made_by="base")
    kept = {name: described[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    config = getattr(transformers, f"{family}Config")(
        **sizes, **kept, tie_word_embeddings=True, max_position_embeddings=8192
    )
    torch.manual_seed(7)
    getattr(transformers, f"{family}ForCausalLM")(config).to(torch.bfloat16).save_pretrained(origin)
    (folder / BASE).mkdir()
    base.pin(BaseParams(name=str(origin), revision=None), folder / BASE)


def train_params() -> TrainParams:
    """The settings in the folder's params.yaml."""
    return TrainParams.model_validate(YAML(typ="safe").load(Path("params.yaml"))["train"])


def documents(split: str) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and labels of each example in the packed rows of a split."""
    for row in artifacts.read_arrow(Path(f"data/packed/{split}.arrow"), made_by="tokenize").to_pylist():
        start = 0
        for length in row["seq_lengths"]:
            yield row["input_ids"][start : start + length], row["labels"][start : start + length]
            start += length


def train_with_retune(out: Path) -> Outcome:
    """The stage's own function, on a manifest without validation rows: TRL judges nothing on the way either."""
    from stages.train import train

    packed = Path("data/without-validation")
    shutil.copytree("data/packed", packed, dirs_exist_ok=True)
    manifest = artifacts.read_json(packed / "manifest.json", made_by="tokenize")
    manifest["splits"]["validation"] |= {"rows": 0, "examples": 0}
    artifacts.write_json(packed / "manifest.json", manifest)
    with artifacts.replacing(out) as folder:
        tuned = train(packed, BASE, folder, Path("state"), train_params(), seed=7)
    shutil.rmtree("state", ignore_errors=True)
    return Outcome(tuned.tokens_per_second, _most_memory(), [one["loss"] for one in tuned.train_loss])


def train_with_trl(out: Path, *, packing: bool, kernels: str | None) -> Outcome:
    """SFTTrainer as its documentation uses it, with the same tokens and the same number of examples a step."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from stages.lib import adapters, models

    params = train_params()
    manifest = artifacts.read_json(Path("data/packed/manifest.json"), made_by="tokenize")
    max_length, bins = manifest["max_length"], manifest["splits"]["train"]["rows"]
    examples = list(documents("train"))
    steps = math.ceil(bins / params.batch_size)
    accumulation = 1 if packing else math.ceil(math.ceil(len(examples) / EXAMPLES_AT_ONCE) / steps)
    rows = Dataset.from_list(
        [{"input_ids": ids, "completion_mask": [int(label >= 0) for label in labels]} for ids, labels in examples]
    )
    has_bf16 = models.computes_in_bf16(models.device())
    quantized = params.method == "qlora"
    model = models.load_base(load_pinned(BASE), models.dtype_for("auto"), quantized=quantized)
    if kernels:
        model.set_attn_implementation(kernels)
    settings = SFTConfig(
        output_dir="trl",
        num_train_epochs=1,
        max_steps=params.max_steps or -1,
        per_device_train_batch_size=params.batch_size if packing else EXAMPLES_AT_ONCE,
        gradient_accumulation_steps=accumulation,
        learning_rate=params.lr,
        lr_scheduler_type="constant",
        max_length=max_length,
        packing=packing,
        packing_strategy="bfd",
        completion_only_loss=True,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        bf16=has_bf16,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=7,
        dataloader_pin_memory=torch.cuda.is_available(),
    )

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begin = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.perf_counter() - self.begin

    clock = Clock()
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=rows,
        processing_class=models.load_tokenizer(),
        peft_config=adapters.config(params.lora),
        callbacks=[clock],
    )
    trainer.train()
    trainer.save_model(str(out))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = max(entry.get("num_tokens", 0) for entry in trainer.state.log_history)  # padding is not among them
    return Outcome(tokens / clock.seconds, _most_memory(), losses)


def _most_memory() -> float:
    """GiB: of the GPU where there is one, else of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / (1 << 30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def held_out(adapter: Path) -> float:
    """Nats a trained token on the validation split, each example by itself, in fp32."""
    import torch
    from peft import PeftModel
    from torch.nn.functional import cross_entropy

    from stages.lib import models

    model = PeftModel.from_pretrained(models.load_base(load_pinned(BASE), torch.float32), str(adapter)).eval()
    nats, tokens = 0.0, 0
    with torch.inference_mode():
        for ids, labels in documents("validation"):
            logits = model(torch.tensor([ids], device=model.device)).logits[0, :-1]
            targets = torch.tensor(labels[1:], device=model.device)
            nats += float(cross_entropy(logits, targets, reduction="sum"))
            tokens += sum(label >= 0 for label in labels[1:])
    return nats / tokens


def products_of_a_token() -> float:
    """Floating-point operations of the matrix products of one useful token, forward and backward, over all rows."""
    import torch
    from datasets import Dataset
    from peft import get_peft_model
    from torch.utils.flop_counter import FlopCounterMode

    from stages.lib import adapters, attention, methods, models
    from stages.lib.logits import logits_at
    from stages.lib.trainer import LayoutCollator, PackedCollator

    params = train_params()
    model = methods.prepare(load_pinned(BASE), BASE, params, models.dtype_for(params.precision), packs=True)
    tuned = get_peft_model(model, adapters.config(params.lora)).train()
    rows = Dataset.from_file("data/packed/train.arrow").select(range(params.batch_size)).to_list()
    batch = (LayoutCollator() if attention.lays_out(model) else PackedCollator(0))(rows)
    documents = batch.pop("documents")
    batch = {name: value.to(model.device) for name, value in batch.items()}
    labels, _ = batch.pop("labels"), batch.pop("weights")
    batch |= attention.boundaries(model, documents, model.device)
    wanted = torch.nn.functional.pad(labels[:, 1:] >= 0, (0, 1))
    with FlopCounterMode(display=False) as counter:
        logits_at(tuned, wanted, **batch).float().logsumexp(-1).sum().backward()
    return counter.get_total_flops() / sum(len(row["input_ids"]) for row in rows)


def peak() -> float:
    """Operations a second of large matrix products, in the type that the device computes in."""
    import torch

    from stages.lib import models

    side = SIDE[models.device().type]
    one = torch.randn(side, side, dtype=models.dtype_for("auto"), device=models.device())
    best = math.inf
    for _ in range(12):
        begin = time.perf_counter()
        one @ one
        if one.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def in_a_process(folder: Path, what: str, kernels: str | None = None) -> Any:
    """What a child process found; `kernels` is the attention that TRL takes."""
    (folder / OUT).unlink(missing_ok=True)
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    more = ["--attention", kernels] if kernels else []
    timed(folder, "-m", "benchmarks.train", "--run", what, *more, **environment)
    return artifacts.read_json(folder / OUT, made_by="the benchmark")


def one_run(what: str, kernels: str | None) -> Any:
    """In the child process: train, or find a figure."""
    out = Path("adapter")
    if what == "retune":
        return asdict(train_with_retune(out))
    if what.startswith("trl"):
        return asdict(train_with_trl(out, packing=what == "trl-packed", kernels=kernels))
    return {"held-out": lambda: held_out(out), "products": products_of_a_token, "peak": peak}[what]()


def measured(folder: Path, run: str, kernels: str | None) -> tuple[Outcome, float]:
    """One run with its score, and the peak of the machine beside it."""
    outcome = in_a_process(folder, run, kernels)
    return Outcome(**outcome | {"held_out": in_a_process(folder, "held-out")}), in_a_process(folder, "peak")


def table(runs: dict[str, list[tuple[Outcome, float]]], products: float) -> Iterator[str]:
    """What each run took and gave."""
    yield "| | useful tokens a second | × | memory, GiB | of the peak | loss, first and last tenth | held-out loss |"
    yield "|---|---|---|---|---|---|---|"
    ours = runs[OURS]
    for name, done in runs.items():
        speeds = [one.tokens_per_second for one, _ in done]
        each = ", ".join(f"{speed:.0f}" for speed in speeds)
        ratio = median(mine.tokens_per_second / speed for (mine, _), speed in zip(ours, speeds, strict=True))
        share = f"{median(one.tokens_per_second * products / top for one, top in done):.0%}" if name == OURS else ""
        losses = done[0][0].losses
        tenth = max(1, len(losses) // 10)
        curve = f"{mean(losses[:tenth]):.3f}, {mean(losses[-tenth:]):.3f}"
        gib = median(one.gib for one, _ in done)
        yield (
            f"| {name} | {median(speeds):.0f} ({each}) | {ratio:.2f} | {gib:.2f} | {share} | {curve} "
            f"| {done[0][0].held_out:.4f} |"
        )


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", choices=["trl"], default="trl")
    parser.add_argument("--raw", type=Path, default=ROOT / "data/raw", help="a file of rows, or a folder of files")
    parser.add_argument("--rows", type=int, help="only so many records")
    parser.add_argument("--shape", choices=SHAPES, help="random weights, in place of the base in models/base")
    parser.add_argument("--method", choices=["lora", "qlora"], default="lora")
    parser.add_argument("--attention", help="that TRL takes, as transformers names it, e.g. flash_attention_2")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4, help="packed rows a step")
    parser.add_argument("--steps", type=int, help="only so many")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=RUNS, action="append", help="one of the runs, to look closer")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        OUT.write_text(json.dumps(one_run(arguments.run, arguments.attention)))
        return
    if not (ROOT / BASE / "base.json").exists():
        sys.exit(f"{BASE} is missing. Run `python -m stages.base` first.")
    with tempfile.TemporaryDirectory(prefix="retune-") as name:
        folder = Path(name)
        workspace(folder, arguments)
        split = artifacts.read_json(folder / "data/packed/manifest.json", made_by="tokenize")["splits"]["train"]
        chosen = {RUNS[run]: run for run in RUNS if run in (arguments.only or RUNS)}
        runs = in_turn(
            {title: lambda run=run: measured(folder, run, arguments.attention) for title, run in chosen.items()},
            arguments.rounds,
        )
        products = in_a_process(folder, "products")
    libraries = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers", "peft", "trl"))
    print(
        f"{split['examples']:,} examples, {split['tokens']:,} tokens in {split['rows']:,} rows of "
        f"{arguments.max_length}, {arguments.batch} a step{f', {arguments.steps} steps' if arguments.steps else ''}; "
        f"{len(os.sched_getaffinity(0))} cores; {libraries}"
    )
    tops = [top for done in runs.values() for _, top in done]
    print(f"{products / 1e9:.2f} GFLOP a token; peak {median(tops) / 1e9:.0f} GFLOP/s")
    print("\n".join(table(runs, products)))


if __name__ == "__main__":
    main()
