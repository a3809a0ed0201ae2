"""Write each conversation as the text that the model reads, and mark in it what the model is trained to write.

Reads   data/splits/{train,validation,test}.parquet, models/base/ (tokenizer and chat template), templates/
Writes  data/prompts/{train,validation,test}.parquet, data/prompts/template.json, data/prompts/rejected.jsonl,
        reports/format.json
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from stages.lib import artifacts, rejects, runtime, templates
from stages.lib.errors import UserError, run, warn
from stages.lib.params import load
from stages.lib.pinned import BASE, Pinned, load_pinned
from stages.lib.prompts import SCHEMA, answer_start
from stages.lib.rejects import Code, Reject, Rejected
from stages.lib.templates import ChatTemplate, Cut, Frame, Message, Refused
from stages.lib.tokens import load_tokenizer
from stages.params.format import FormatParams

SPLITS = Path("data/splits")
PROMPTS = Path("data/prompts")
REPORT = Path("reports/format.json")

NAMES = ("train", "validation", "test")


@dataclass
class Formatted:
    """The rows of one split."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    turns: int = 0  # answers that are trained
    untrained_turns: int = 0  # answers that the template writes differently once the conversation has gone on
    context_turns: int = 0  # answers that are only read, because the row gives them weight 0


def format_splits(splits: Path, base: Path, out: Path, params: FormatParams) -> dict[str, Any]:
    """Format every split into `out`; return the metrics.

    Raises:
        UserError: when the template cannot be used with this base, or writes none of the training rows.
    """
    pinned = load_pinned(base)
    tokenizer = load_tokenizer(base)
    template = templates.choose(params.template, pinned, base, system=params.system)
    frame = templates.frame_of(template, pinned.eos, tokenizer.added)
    cut = partial(templates.cut, template=template, frame=frame, control=tokenizer.control)
    formatted = {}
    for name in NAMES:
        records = artifacts.read_parquet(splits / f"{name}.parquet", made_by="split")
        formatted[name] = _format(records, cut)
        artifacts.write_parquet(out / f"{name}.parquet", pa.Table.from_pylist(formatted[name].rows, schema=SCHEMA))
    _require_training_rows(formatted["train"], template)
    rejected = [one for split in formatted.values() for one in split.rejected]
    rejects.write(out / "rejected.jsonl", rejected)
    artifacts.write_json(out / "template.json", _template_json(template, frame, pinned))
    return {
        "template": template.name,
        "rows": {
            "read": sum(len(split.rows) + len(split.rejected) for split in formatted.values()),
            "kept": sum(len(split.rows) for split in formatted.values()),
            "rejected": len(rejected),
        },
        "rejected": rejects.tally(rejected),
        **{
            name: {
                "rows": len(split.rows),
                "turns": split.turns,
                "untrained_turns": split.untrained_turns,
                "context_turns": split.context_turns,
            }
            for name, split in formatted.items()
        },
    }


def _format(records: pa.Table, cut: Callable[..., Cut]) -> Formatted:
    """Format the rows of one split; a row that the template cannot write is rejected."""
    done = Formatted()
    for record in tqdm(records.to_pylist(), desc="format", unit="row", disable=None):
        try:
            written = cut(_messages(record), only_read=_only_read(record))
        except Refused as error:
            done.rejected.append(_rejected(record, str(error)))
            continue
        done.rows.append(_row(record, written))
        done.turns += written.trained_turns
        done.untrained_turns += written.untrained_turns
        done.context_turns += written.context_turns
    return done


def _messages(record: dict[str, Any]) -> Sequence[Message]:
    """What the template gets: the conversation, and the two fields of an alpaca row."""
    *before, question, answer = (
        {"role": message["role"], "content": message["content"]} for message in record["messages"]
    )
    return [*before, templates.last_question(question["content"], record["input"]), answer]


def _only_read(record: dict[str, Any]) -> set[int]:
    """The answers that are context and not trained."""
    return {place for place, message in enumerate(record["messages"]) if message["weight"] == 0}


def _row(record: dict[str, Any], written: Cut) -> dict[str, Any]:
    """A row of `prompts/*.parquet`."""
    start = answer_start(written.segments)
    return {
        "id": record["id"],
        "category": record["category"],
        "group": record["group"],
        "segments": [segment._asdict() for segment in written.segments],
        "question": _question(record["messages"][:-1]),
        "prompt": "".join(segment.text for segment in written.segments[:start]),
        "reference": record["messages"][-1]["content"],
        "weight": record["weight"],
        "constraints": record["constraints"],
    }


def _question(turns: Sequence[dict[str, Any]]) -> str:
    """What comes before the last answer, for people: without the template's marks, and without its system text."""
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)


def _rejected(record: dict[str, Any], reason: str) -> Rejected:
    kept = {"id": record["id"], "messages": record["messages"]}
    return Rejected(record["source"], record["line"], Reject(Code.TEMPLATE_REFUSED, reason), kept)


def _require_training_rows(train: Formatted, template: ChatTemplate) -> None:
    if train.rows:
        return
    if not train.rejected:
        raise UserError("data/splits/train.parquet holds no rows. Add data to data/raw/, then run `dvc repro`.")
    first = train.rejected[0]
    raise UserError(
        f"the template {template.name} can write none of the {len(train.rejected):,} training rows. "
        f"The first is {first.source}:{first.line}: {first.reject.reason}. "
        "Choose another format.template."
    )


def _template_json(template: ChatTemplate, frame: Frame, pinned: Pinned) -> dict[str, Any]:
    """What later stages and the shipped model need to know of the template."""
    return {
        "template": template.name,
        "chat_template": template.source,
        "bos": pinned.bos,
        "eos": pinned.eos,
        "pad": pinned.pad,
        "lead": frame.lead,
        "stop": list(frame.stop),
    }


def summary(metrics: dict[str, Any]) -> str:
    """What came in, what went out, where it is."""
    rows = metrics["rows"]
    rejected = f" ({rejects.summary(metrics['rejected'])})" if rows["rejected"] else ""
    return (
        f"format: {rows['read']:,} read · {rows['kept']:,} written with the template {metrics['template']} · "
        f"{rows['rejected']:,} rejected{rejected} → {PROMPTS}/"
    )


def main() -> None:
    """Run the stage."""
    params = load(FormatParams)
    with runtime.measured("format"), artifacts.replacing(PROMPTS) as out:
        metrics = format_splits(SPLITS, BASE, out, params)
    artifacts.write_json(REPORT, metrics)
    untrained = metrics["train"]["untrained_turns"]
    if untrained:
        warn(
            f"{untrained:,} earlier answers are not trained, because the template {metrics['template']} writes an "
            "answer differently once the conversation has gone on."
        )
    print(summary(metrics))


if __name__ == "__main__":
    run(main)
