"""Answers a second, beside a peer: `python -m benchmarks.evaluate [--peer harness] [--rows N] [--rounds N]`.

The base in models/base answers the test rows of the workspace (`dvc repro format` first), greedily, up to
evaluate.max_new_tokens: once as Retune does, in batches of evaluate.batch_size, and once by the peer. That is
`generate` for each prompt, as the documentation of transformers shows it, or lm-evaluation-harness in batches of the
same size. They take turns, each in a process of its own; the time is that of the answers, without start-up. The texts
must be the same.
"""

import argparse
import json
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.turns import in_turn, timed
from stages.lib import artifacts
from stages.lib.ending import Ending
from stages.lib.errors import run
from stages.lib.harness import Row, as_row, require, tasks, wrap
from stages.lib.params import load
from stages.lib.pinned import load_pinned
from stages.lib.prompts import Segment
from stages.params.evaluate import EvaluateParams

ROOT = Path(__file__).parents[1]
BATCHED, ONE_BY_ONE, HARNESS = "Retune", "one by one", "lm_eval"
PEERS = {"one-by-one": ONE_BY_ONE, "harness": HARNESS}
TEST = Path("data/prompts/test.parquet")
TEMPLATE = Path("data/prompts/template.json")


def answers(way: str, limit: int | None) -> dict[str, Any]:
    """In the child process: what the base answers, and the seconds that it took."""
    from stages.lib import models
    from stages.lib.ending import read_ending
    from stages.lib.tokens import load_tokenizer

    models.hush()
    params, pinned, tokenizer = load(EvaluateParams), load_pinned(), load_tokenizer()
    ending = read_ending(TEMPLATE, pinned, tokenizer)
    rows = artifacts.read_parquet(TEST, made_by="format").to_pylist()[:limit]
    segments = [[Segment(**one) for one in row["segments"]] for row in rows]
    asked = [as_row(*pair, ()) for pair in zip(segments, tokenizer.encode(segments), strict=True)]
    model = models.load_base(pinned, models.dtype_for(params.precision))
    answer = {BATCHED: by_retune, ONE_BY_ONE: one_by_one, HARNESS: by_harness}[way]
    return answer(model, asked, ending, params)


def by_retune(model: Any, rows: list[Row], ending: Ending, params: EvaluateParams) -> dict[str, Any]:
    """Prompts of about the same length in one batch."""
    from stages.lib.generation import generate

    prompts = [row.example.prompt for row in rows]
    begin = time.perf_counter()
    found = generate(model, prompts, ending.stops, ending.decode, params.batch_size, params.max_new_tokens)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "texts": [one.text for one in found], "tokens": sum(one.tokens for one in found)}


def one_by_one(model: Any, rows: list[Row], ending: Ending, params: EvaluateParams) -> dict[str, Any]:
    """A call of `generate` for each prompt."""
    import torch

    texts = []
    begin = time.perf_counter()
    for row in rows:
        prompt = row.example.prompt
        ids = torch.tensor([prompt], device=model.device)
        with torch.inference_mode():
            written = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=params.max_new_tokens,
                eos_token_id=list(ending.stops.ids),
                pad_token_id=0,
            )
        texts.append(ending.decode(ending.without_end(written[0, len(prompt) :].tolist())))
    return {"seconds": time.perf_counter() - begin, "texts": texts}


def by_harness(model: Any, rows: list[Row], ending: Ending, params: EvaluateParams) -> dict[str, Any]:
    """The requests that lm_eval makes of its task, answered in its batches."""
    from lm_eval.api.task import ConfigurableTask

    from stages.lib import models

    wrapped = wrap(model, models.load_tokenizer(), params.batch_size, add_bos_token=False)
    task = ConfigurableTask(config=tasks(rows, ending.stops, params.max_new_tokens)[0])
    task.build_all_requests()
    begin = time.perf_counter()
    texts = wrapped.generate_until(task.instances)
    return {"seconds": time.perf_counter() - begin, "texts": texts}


def in_a_process(way: str, limit: int | None) -> dict[str, Any]:
    """The same, told by a child process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answers.json"
        more = ["--rows", str(limit)] if limit else []
        timed(ROOT, "-m", "benchmarks.evaluate", "--run", way, "--out", str(out), *more, HF_HUB_OFFLINE="1")
        told: dict[str, Any] = artifacts.read_json(out, made_by="the benchmark")
        return told


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", choices=PEERS, default="one-by-one")
    parser.add_argument("--rows", type=int, help="only so many")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        arguments.out.write_text(json.dumps(answers(arguments.run, arguments.rows)))
        return
    peer = PEERS[arguments.peer]
    if peer == HARNESS:
        require()
    runs = in_turn(
        {way: lambda way=way: in_a_process(way, arguments.rows) for way in (BATCHED, peer)}, arguments.rounds
    )
    ours, theirs = runs[BATCHED], runs[peer]
    same = sum(one == other for one, other in zip(ours[0]["texts"], theirs[0]["texts"], strict=True))
    print(
        f"{len(ours[0]['texts']):,} answers, {ours[0]['tokens']:,} tokens; {len(os.sched_getaffinity(0))} cores; "
        f"torch {version('torch')}, transformers {version('transformers')}"
    )
    for way, done in runs.items():
        seconds = [one["seconds"] for one in done]
        print(f"{way}: {median(seconds):.1f} s ({', '.join(f'{one:.1f}' for one in seconds)})")
    ratio = median(slow["seconds"] / fast["seconds"] for fast, slow in zip(ours, theirs, strict=True))
    print(f"ratio {ratio:.2f}; {same:,} of {len(ours[0]['texts']):,} texts are the same")


if __name__ == "__main__":
    run(main)
