"""How fast text becomes packed rows of tokens, and how full these are, beside TRL's own preparation of the same text.

`python -m benchmarks.tokenize [--rows N] [--rounds N] [--max-length N]` writes synthetic rows into a temporary folder
and has `format` make prompts of them. Then `tokenize` and TRL prepare these in turn, each in processes of its own,
start-up included. TRL's part is what SFTTrainer does to a prompt/completion dataset (end token, tokens, labels, bfd
packing) with one process and with two (`dataset_num_proc`); no model is loaded and no trainer built for it, which is to
its favour.

Retune runs in one process, in which the tokenizers library spreads a batch over a thread for each core; so it runs once
more with a single thread. Processor seconds are those of all cores together, and vary less on a busy machine.

The base is the one in models/base: `python -m stages.base` first.
"""

import argparse
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate, product
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from ruamel.yaml import YAML

from benchmarks.turns import in_turn, timed
from stages.lib import artifacts
from stages.lib.labels import IGNORED
from stages.lib.pinned import BASE
from stages.lib.records import Message, Record, to_table

ROOT = Path(__file__).parents[1]
QUESTION, ANSWER = 40, 110  # words, in the median
SPREAD = 0.8  # of the logarithm of a length, as in sets of real answers
MARKS = ("",) * 8 + (",", ".", ":\n", "?\n\n")
TEXT = "text.parquet"  # prompt and completion, for TRL
DONE = "trl.json"  # what TRL's process says of itself
OURS = (f"tokenize, {len(os.sched_getaffinity(0))} threads", "tokenize, 1 thread")
THEIRS = ("TRL, 1 process", "TRL, 2 processes")
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # of tokenizers and of Arrow


@dataclass(frozen=True)
class Prepared:
    """What one run took and made."""

    seconds: float  # start-up included
    working: float  # start-up left out
    processor: float  # seconds of all cores together
    examples: Counter[int]  # by a hash of their tokens
    tokens: int
    trained_tokens: int
    bins: int


def synthetic(count: int, max_length: int, vocabulary: Sequence[str], seed: int = 1) -> list[Record]:
    """Questions and answers in words of the base's vocabulary, frequent ones more often by Zipf's law.

    One in fifty is made of two, which the tokenizer has to take apart as it does with names. No row is too long: what
    Retune leaves out, TRL cuts.
    """
    rng = random.Random(seed)
    weights = list(accumulate(1 / rank for rank in range(1, len(vocabulary) + 1)))

    def text(usual: int) -> str:
        length = min(1 + int(usual * rng.lognormvariate(0, SPREAD)), max_length // 5)
        words = rng.choices(vocabulary, cum_weights=weights, k=length)
        second = (rng.choice(vocabulary) if rng.random() < 0.02 else "" for _ in words)
        return " ".join(one + other + rng.choice(MARKS) for one, other in zip(words, second, strict=True)).strip()

    return [
        Record("rows.jsonl", line, (Message("user", text(QUESTION)), Message("assistant", text(ANSWER))))
        for line in range(1, count + 1)
    ]


def vocabulary_of(base: Path) -> list[str]:
    """The words of a byte-level tokenizer in the order in which it learned them, frequent ones first."""
    numbers = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = (piece.removeprefix("Ġ") for piece in sorted(numbers, key=numbers.__getitem__) if piece.startswith("Ġ"))
    return [word for word in words if len(word) > 2 and word.isascii() and word.isalpha()]


def workspace(folder: Path, records: list[Record], max_length: int) -> None:
    """What `python -m stages.tokenize` needs to run in a folder of its own, and the same text for TRL."""
    for part in ("stages", "templates"):
        shutil.copytree(ROOT / part, folder / part)
    shutil.copytree(ROOT / BASE, folder / BASE, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = YAML().load(ROOT / "params.yaml")
    settings["tokenize"] |= {"max_length": max_length, "pack": True}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(settings, file)
    table = to_table(records)
    table = table.append_column("group", table["id"])
    (folder / "data/splits").mkdir(parents=True)
    for name, rows in (("train", table), ("validation", table[:0]), ("test", table[:0])):
        artifacts.write_parquet(folder / f"data/splits/{name}.parquet", rows)
    timed(folder, "-m", "stages.format")
    prompts = artifacts.read_parquet(folder / "data/prompts/train.parquet", made_by="format")
    answers = ["".join(part["text"] for part in row if part["trained"]) for row in prompts["segments"].to_pylist()]
    pq.write_table(pa.table({"prompt": prompts["prompt"], "completion": answers}), folder / TEXT)


def ours(folder: Path, **environment: str) -> Prepared:
    """Run the stage."""
    seconds, processor = _weighed(folder, "-m", "stages.tokenize", **environment)
    working = artifacts.read_json(folder / "reports/runtime/tokenize.json", made_by="tokenize")["seconds"]
    return _prepared(seconds, working, processor, [folder / "data/packed/train.arrow"])


def theirs(folder: Path, processes: int, max_length: int) -> Prepared:
    """Run TRL, without what it kept of an earlier run."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    environment = {
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    command = ("-m", "benchmarks.tokenize", "--trl", str(processes), "--max-length", str(max_length))
    seconds, processor = _weighed(folder, *command, **environment)
    done = artifacts.read_json(folder / DONE, made_by="TRL")
    return _prepared(seconds, done["working"], processor, [Path(file) for file in done["files"]])


def _weighed(folder: Path, *command: str, **environment: str) -> tuple[float, float]:
    """Seconds that a command takes, and those of the processor in it and in its own processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = timed(folder, *command, **environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _prepared(seconds: float, working: float, processor: float, files: list[Path]) -> Prepared:
    """Add what lies on the disk after a run."""
    table = pa.concat_tables([artifacts.read_arrow(file, made_by="the benchmark") for file in files])
    ids, labels, lengths = (
        pc.list_flatten(table[name]).to_numpy().astype(np.int32) for name in ("input_ids", "labels", "seq_lengths")
    )
    return Prepared(
        seconds=seconds,
        working=working,
        processor=processor,
        examples=Counter(xxhash.xxh3_64_intdigest(one) for one in np.split(ids, np.cumsum(lengths)[:-1])),
        tokens=len(ids),
        trained_tokens=int(np.count_nonzero(labels != IGNORED)),
        bins=len(table),
    )


def prepare_with_trl(processes: int, max_length: int) -> None:
    """What SFTTrainer does before it trains; it takes nothing else of itself to do it."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        output_dir="trl",
        max_length=max_length,
        packing=True,
        packing_strategy="bfd",
        completion_only_loss=True,
        dataset_num_proc=processes if processes > 1 else None,  # 1 would start a second process
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    begin = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    rows = Dataset.from_parquet(TEXT)
    trainer: Any = SimpleNamespace(_tokenizer=tokenizer, completion_only_loss=True, chat_template=None)
    packed = SFTTrainer._prepare_dataset(trainer, rows, tokenizer, settings, settings.packing, None, "train")
    working = time.perf_counter() - begin
    files = [file["filename"] for file in packed.cache_files]
    artifacts.write_json(Path(DONE), {"working": working, "files": files})


def require_the_same(runs: dict[str, list[Prepared]], rows: int) -> None:
    """Runs that read other rows, or made other tokens of them, cannot be compared."""
    first, *others = [one for done in runs.values() for one in done]
    for one in (first, *others):
        assert one.examples.total() == rows
        assert (one.examples & first.examples).total() > 0.99 * rows
        assert abs(one.trained_tokens - first.trained_tokens) < 0.01 * first.trained_tokens


def taken(runs: dict[str, list[Prepared]], max_length: int) -> Iterator[str]:
    """What each run took and made, as a table."""
    yield "| | seconds | of these start-up | processor seconds | bins | fill |\n|---|---|---|---|---|---|"
    for name, done in runs.items():
        start, processor = median(one.seconds - one.working for one in done), median(one.processor for one in done)
        each = ", ".join(f"{one.seconds:.1f}" for one in done)
        fill = done[0].tokens / (done[0].bins * max_length)
        seconds = f"{median(one.seconds for one in done):.1f} ({each})"
        yield f"| {name} | {seconds} | {start:.1f} | {processor:.1f} | {done[0].bins:,} | {fill:.4f} |"


def ratios(runs: dict[str, list[Prepared]]) -> Iterator[str]:
    """How often each run of Retune fits into each of TRL, as a table: medians of the rounds."""
    yield "| times as fast as | seconds | without start-up | processor seconds |\n|---|---|---|---|"
    for peer, other in product(THEIRS, OURS):
        pairs = list(zip(runs[peer], runs[other], strict=True))
        figures = (
            median(getattr(one, field) / getattr(mine, field) for one, mine in pairs)
            for field in ("seconds", "working", "processor")
        )
        yield f"| {peer}: {other} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |"


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenize", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--trl", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rows, limit = arguments.rows, arguments.max_length
    if arguments.trl:
        prepare_with_trl(arguments.trl, limit)
        return
    if not (ROOT / BASE / "base.json").exists():
        sys.exit(f"{BASE} is missing. Run `python -m stages.base` first.")
    with tempfile.TemporaryDirectory(prefix="retune-") as name:
        folder = Path(name)
        workspace(folder, synthetic(rows, limit, vocabulary_of(ROOT / BASE)), limit)
        runs = in_turn(
            {
                OURS[0]: lambda: ours(folder),
                OURS[1]: lambda: ours(folder, **ONE_THREAD),
                THEIRS[0]: lambda: theirs(folder, 1, limit),
                THEIRS[1]: lambda: theirs(folder, 2, limit),
            },
            arguments.rounds,
        )
    require_the_same(runs, rows)
    peers = ", ".join(f"{library} {version(library)}" for library in ("trl", "datasets", "transformers", "tokenizers"))
    print(f"{rows:,} rows, {runs[OURS[0]][0].tokens:,} tokens, max_length {limit}; {peers}")
    print("\n".join([*taken(runs, limit), "", *ratios(runs)]))


if __name__ == "__main__":
    main()
