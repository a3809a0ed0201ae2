"""Turn text into rows of tokens: several examples packed into one row, none cut.

Reads   data/prompts/{train,validation,test}.parquet, data/prompts/template.json, models/base/ (tokenizer)
Writes  data/packed/{train,validation,test}.arrow, manifest.json, rejected.jsonl, template.json (a copy),
        reports/tokenize.json, reports/length_histogram.csv
"""

import shutil
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from stages.lib import artifacts, packing, rejects, runtime
from stages.lib.errors import UserError, run
from stages.lib.labels import IGNORED
from stages.lib.params import load, load_seed
from stages.lib.pinned import BASE, Pinned, load_pinned
from stages.lib.prompts import Segment
from stages.lib.rejects import Code, Reject, Rejected
from stages.lib.tokens import SegmentTokenizer, load_tokenizer
from stages.params.tokenize import TokenizeParams

PROMPTS = Path("data/prompts")
PACKED = Path("data/packed")
REPORT = Path("reports/tokenize.json")
HISTOGRAM = Path("reports/length_histogram.csv")

NAMES = ("train", "validation", "test")
BATCH = 1024  # rows read at once: enough for every core, few enough for the progress bar to move
BARS = 20  # at most, of the length histogram up to max_length


@dataclass(frozen=True)
class Split:
    """One split as tokens."""

    lengths: list[int]  # tokens of every row, the dropped ones too
    examples: pa.Table  # packing.EXAMPLES, of the rows that are kept
    bins: list[list[int]]  # places in `examples`
    rejected: list[Rejected]

    @cached_property
    def tokens(self) -> int:
        """Tokens that are kept."""
        return int(pc.sum(pc.list_value_length(self.examples["input_ids"])).as_py() or 0)

    @cached_property
    def trained_tokens(self) -> int:
        """Tokens that the model learns to write."""
        return int(np.count_nonzero(pc.list_flatten(self.examples["labels"]).to_numpy() != IGNORED))

    @cached_property
    def weighted(self) -> int:
        """Examples that count for more or less than one."""
        return int(np.count_nonzero(self.examples["weight"].to_numpy() != 1))


def tokenize(prompts: Path, base: Path, out: Path, params: TokenizeParams, seed: int) -> dict[str, Split]:
    """Tokenize and pack every split into `out`.

    A row of more than `max_length` tokens is dropped whole and written to rejected.jsonl: an answer cut off teaches
    the model to stop in mid-sentence, one without its prompt teaches it nothing.

    Raises:
        UserError: when the model cannot read rows of `max_length` tokens, or nothing is left to train on.
    """
    pinned = load_pinned(base)
    if params.max_length > pinned.context:
        raise UserError(
            f"params.yaml: tokenize.max_length is {params.max_length}, but {pinned.name} reads at most "
            f"{pinned.context} tokens. Set it to {pinned.context} or less, or choose another base."
        )
    template = artifacts.read_json(prompts / "template.json", made_by="format")
    tokenizer = load_tokenizer(base)
    splits = {}
    for name in NAMES:
        rows = artifacts.read_parquet(prompts / f"{name}.parquet", made_by="format")
        splits[name] = split = _split(rows, name, tokenizer, params, seed)
        _require_known_tokens(split, name, tokenizer, pinned)
        artifacts.write_arrow(out / f"{name}.arrow", packing.table(split.bins, split.examples))
    _require_something_to_learn(splits["train"], params.max_length)
    rejects.write(out / "rejected.jsonl", [one for split in splits.values() for one in split.rejected])
    shutil.copyfile(prompts / "template.json", out / "template.json")
    artifacts.write_json(out / "manifest.json", _manifest(out, splits, template, tokenizer, pinned, params))
    return splits


def _split(rows: pa.Table, name: str, tokenizer: SegmentTokenizer, params: TokenizeParams, seed: int) -> Split:
    """Tokenize one split, drop what is too long and pack the rest."""
    encoded = _encode(rows, tokenizer)
    limit = params.max_length
    lengths = pc.list_value_length(encoded["input_ids"]).to_numpy()
    fits = lengths <= limit
    fitting = lengths[fits].tolist()
    kept = encoded.filter(pa.array(fits))
    bins = packing.best_fit_decreasing(fitting, limit) if params.pack else [[place] for place in range(len(fitting))]
    return Split(
        lengths=lengths.tolist(),
        examples=kept,
        bins=packing.shuffled(bins, kept["id"].to_pylist(), seed),
        rejected=[_too_long(rows, place, name, int(lengths[place]), limit) for place in np.flatnonzero(~fits).tolist()],
    )


def _encode(rows: pa.Table, tokenizer: SegmentTokenizer) -> pa.Table:
    """The examples of all rows, in their order."""
    batches = []
    with tqdm(total=rows.num_rows, desc="tokenize", unit="row", disable=None) as bar:
        for batch in rows.select(["id", "weight", "segments"]).to_batches(max_chunksize=BATCH):
            segments = [[Segment(**one) for one in row] for row in batch["segments"].to_pylist()]
            batches.append(packing.examples(batch["id"], batch["weight"], tokenizer.encode(segments)))
            bar.update(len(segments))
    return pa.Table.from_batches(batches, packing.EXAMPLES).combine_chunks()


def _too_long(rows: pa.Table, place: int, name: str, tokens: int, limit: int) -> Rejected:
    """The reject of one row, whose id leads to its line in data/raw (data/splits has both)."""
    row = rows.slice(place, 1).select(["id", "prompt", "reference"]).to_pylist()[0]
    reject = Reject(
        Code.TOO_MANY_TOKENS,
        reason=f"the row has {tokens} tokens, more than {limit}",
        detail={"tokens": tokens, "limit": limit},
    )
    return Rejected((PROMPTS / f"{name}.parquet").as_posix(), place + 1, reject, row)


def _require_known_tokens(split: Split, name: str, tokenizer: SegmentTokenizer, pinned: Pinned) -> None:
    """Some tokenizers know more tokens than the model has embeddings for."""
    ids = split.examples["input_ids"]
    unknown = pc.greater_equal(pc.list_flatten(ids), pinned.vocab_size)
    if not pc.any(unknown).as_py():
        return
    place = pc.list_parent_indices(ids).filter(unknown)[0].as_py()
    largest = max(ids[place].as_py())
    token = tokenizer.decode([largest], control=True)
    raise UserError(
        f"data/prompts/{name}.parquet: the row {split.examples['id'][place]} needs the token {token!r} (number "
        f"{largest}), but {pinned.name} has embeddings for {pinned.vocab_size:,} only. Leave it out of rows and "
        "template, or choose a base whose tokenizer fits."
    )


def _require_something_to_learn(train: Split, limit: int) -> None:
    if train.trained_tokens:
        return
    if not train.lengths:
        raise UserError("data/prompts/train.parquet holds no rows. Add data to data/raw/, then run `dvc repro`.")
    raise UserError(
        f"params.yaml: tokenize.max_length is {limit}, but each of the {len(train.lengths):,} training rows is longer: "
        f"the shortest has {min(train.lengths):,} tokens, the longest {max(train.lengths):,}. Raise it, or shorten the "
        "rows."
    )


def _manifest(
    out: Path,
    splits: dict[str, Split],
    template: dict[str, Any],
    tokenizer: SegmentTokenizer,
    pinned: Pinned,
    params: TokenizeParams,
) -> dict[str, Any]:
    """What data/packed holds, and the token ids that training and generation need."""
    pad, eos = tokenizer.token_id(pinned.pad), tokenizer.token_id(pinned.eos)
    pads = [index for index in (pad, eos) if index is not None and index < pinned.vocab_size]
    stop = {text: tokenizer.added_ids.get(text) for text in template["stop"]}
    return {
        "max_length": params.max_length,
        "template": template["template"],
        "tokenizer_sha256": pinned.files["tokenizer.json"].sha256,
        "bos_token_id": tokenizer.token_id(pinned.bos),
        "eos_token_id": eos,
        # Only ever stands where the label is -100, so any id that the model knows will do.
        "pad_token_id": next(iter(pads), 0),
        "stop_token_ids": [index for index in stop.values() if index is not None],
        "stop_texts": [text for text, index in stop.items() if index is None],
        "splits": {
            name: {
                "file": f"{name}.arrow",
                "sha256": artifacts.sha256(out / f"{name}.arrow"),
                "rows": len(split.bins),
                "dropped": len(split.rejected),
                "examples": split.examples.num_rows,
                "tokens": split.tokens,
                "trained_tokens": split.trained_tokens,
            }
            for name, split in splits.items()
        },
    }


def metrics(splits: dict[str, Split], limit: int) -> dict[str, Any]:
    """The content of `reports/tokenize.json`."""
    return artifacts.finite(
        {
            # Rows are never cut. The figure stays, because silent cuts are what people look for first.
            "truncated": {"rows": 0},
            "dropped": {"rows": sum(len(split.rejected) for split in splits.values())},
            **{name: _figures(split, limit) for name, split in splits.items()},
        }
    )


def _figures(split: Split, limit: int) -> dict[str, Any]:
    bins = len(split.bins)
    return {
        "rows": len(split.lengths),
        "dropped": len(split.rejected),
        "examples": split.examples.num_rows,
        "weighted_examples": split.weighted,
        "tokens": split.tokens,
        "trained_tokens": split.trained_tokens,
        "bins": bins,
        "fill": round(split.tokens / (bins * limit), 4) if bins else None,
        "length": _quantiles(split.lengths),
    }


def _quantiles(lengths: list[int]) -> dict[str, int]:
    """Lengths that half, nine tenths, … of the rows do not pass."""
    if not lengths:
        return {}
    values = np.percentile(lengths, [50, 90, 99, 100], method="higher")
    return dict(zip(("p50", "p90", "p99", "max"), values.tolist(), strict=True))


def histogram(splits: dict[str, Split], limit: int) -> str:
    """The content of `reports/length_histogram.csv`: rows by tokens, those that were dropped for their length too."""
    longest = max((length for split in splits.values() for length in split.lengths), default=0)
    round_numbers = (step * 10**power for power in count() for step in (1, 2, 5))
    width = next(number for number in round_numbers if number * BARS > min(longest, limit))
    lines = ["split,tokens_from,tokens_to,rows"]
    for name, split in splits.items():
        bars = Counter(length // width * width for length in split.lengths)
        lines += [f"{name},{low},{low + width - 1},{rows}" for low, rows in sorted(bars.items())]
    return "\n".join(lines) + "\n"


def summary(figures: dict[str, Any], limit: int) -> str:
    """What came in, what went out, where it is."""
    rows = sum(figures[name]["rows"] for name in NAMES)
    examples = sum(figures[name]["examples"] for name in NAMES)
    train = figures["train"]
    weighted = f" · {train['weighted_examples']:,} with a weight of their own" if train["weighted_examples"] else ""
    return (
        f"tokenize: {rows:,} read · {examples:,} kept · {figures['dropped']['rows']:,} longer than {limit} tokens "
        f"→ {PACKED}/rejected.jsonl · train: {train['tokens']:,} tokens ({train['trained_tokens']:,} trained) "
        f"in {train['bins']:,} rows, {train['fill']:.1%} full{weighted}"
    )


def main() -> None:
    """Run the stage."""
    params, seed = load(TokenizeParams), load_seed()
    with runtime.measured("tokenize"), artifacts.replacing(PACKED) as out:
        splits = tokenize(PROMPTS, BASE, out, params, seed)
    figures = metrics(splits, params.max_length)
    artifacts.write_json(REPORT, figures)
    artifacts.write_text(HISTOGRAM, histogram(splits, params.max_length))
    print(summary(figures, params.max_length))


if __name__ == "__main__":
    run(main)
