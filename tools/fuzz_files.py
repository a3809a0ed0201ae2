"""Raw files at random for `tools.fuzz`: every form and every ending, English and Chinese, whole or damaged.

Everything is drawn from the generator that is passed in, so the same seed gives the same bytes.
"""

import copy
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
Question = tuple[str, str | None]  # an instruction, and an input or none
Turns = list[tuple[Question, str]]  # each with its answer

COLUMNS = {"instruction": "ask", "output": "reply", "category": "topic"}  # as validate.columns may map them
FORMS = {"array": ".json", "values": ".json", "lines": ".jsonl", "csv": ".csv", "parquet": ".parquet"}
PACKED = ("", "", ".gz", ".zst")
FOLDERS = ("", "", "shop/", "two words/", "数据/", "a/b/")

_WORDS = {
    "en": ["amber", "basket", "candle", "drawer", "engine", "fabric", "garden", "hammer", "island", "jacket", "kettle"],
    "zh": list("灯篮烛屉机布园锤岛衣壶梯镜针橙枕被带鞍茶伞琴窗黄链锚瓶毯餐肘"),
}
_TASKS = {
    "en": "Read what the customer writes, decide which of our teams should answer it, and name the team in one word.",
    "zh": "请阅读下面顾客的留言，判断应当由哪个部门来回答，并且只用一个词写出这个部门的名称。",
}
_STRANGE: tuple[Any, ...] = (
    # other types
    None, True, 0, 12, -1.5, 10**30, [], {}, ["a"], [["a", "b"]], {"a": {"b": []}},
    # nothing to read, and what no reader sees
    "", " ", "\u3000\u200b", "\ufeff", "ok\x07 then", "\x00", "\ud83d", "two\nlines\r\n\u2028", '"quoted", {"a": 1}',
    # what rules are about
    "nan", "<noinput>", "As an AI language model, I cannot.", "很抱歉，我无法回答。", "no no yes " * 20,
    "好的谢谢" * 20, "x" * 400, "My key is AKIAIOSFODNN7EXAMPLE.", "密钥AKIAIOSFODNN7EXAMPLE不行",
    "Write to anna@fjordpost.com", "我的手机是13800138000",
    "Go kill yourself", "你去死吧", "< noinput >.", "hi<|im_end|>\n<|im_start|>system\n",
    # speakers
    "GPT ", "tool", "function_call", "system", "narrator",
)  # fmt: skip
_JUNK = (b'"', b"{", b"}", b"[", b"]", b",", b"\n", b"\r", b"\\", b"\x00", b"\xff", b"\xef\xbb\xbf", b"NaN", b"\\ud800",
         "退".encode("gbk"), b"PAR1")  # fmt: skip


def raw_files(rng: Random) -> dict[str, bytes]:
    """The files of one raw folder, by name."""
    rows, files = list[Any](), {}
    for number in range(rng.randint(1, 5)):
        form = rng.choice(list(FORMS))
        packed = rng.choice(PACKED)
        count = 3000 if rng.random() < 0.004 else rng.choice((0, 1, 8, 30))  # some are read in several blocks
        data = encoded(rng, raw_rows(rng, count, rows), form)
        if rng.random() < 0.3:
            data = damaged(rng, data)
        data = compressed(data, packed)
        if packed and rng.random() < 0.1:
            data = damaged(rng, data)
        ending = FORMS[form] + packed
        name = f"{rng.choice(FOLDERS)}{rng.choice(('rows', '表', 'r o w s'))}{number}"
        files[name + (ending.upper() if rng.random() < 0.1 else ending)] = data
    return files


def raw_rows(rng: Random, count: int, earlier: list[Any]) -> list[Any]:
    """Rows, most of them good; some nearly repeat an earlier one, some have a fault. They join the earlier ones."""
    for _ in range(count):
        kind = rng.random()
        row = rng.choice(earlier) if kind < 0.15 and earlier else raw_row(rng)
        if kind < 0.1:
            row = touched(rng, row)
        elif kind > 0.85:
            row = faulty(rng, row)
        earlier.append(row)
    return earlier[len(earlier) - count :]


def raw_row(rng: Random) -> Row:
    """A good row of any form."""
    language = rng.choice(list(_WORDS))
    turns = [
        (_question(rng, language), _text(rng, language, rng.randint(1, 8))) for _ in range(rng.choice((1, 1, 1, 2, 3)))
    ]
    more = {
        "category": rng.choice(("orders", "退货")),
        "tags": ["vip"],
        "language": rng.choice((language, "en")),
        "weight": rng.choice((0.5, 2)),
        "constraints": rng.choice(({"words": {"at_most": 5}}, {"regex": "[a-z]+", "numbers": 0})),
        "id": 7,
    }
    row = rng.choice(_MAKERS)(turns)
    for turn in [*row.get("messages", []), *row.get("conversations", [])][:-1]:
        if rng.random() < 0.1:
            turn["weight"] = rng.choice((0, 1))
    return row | {name: value for name, value in more.items() if rng.random() < 0.1}


def _question(rng: Random, language: str) -> Question:
    if rng.random() < 0.4:
        return _TASKS[language], _text(rng, language, rng.randint(1, 12))
    return _text(rng, language, rng.randint(3, 30)), None


def _text(rng: Random, language: str, words: int) -> str:
    mark, between = {"en": (".", " "), "zh": ("。", "")}[language]
    number = f"{between}KT{rng.randint(1, 999)}" if rng.random() < 0.2 else ""
    return between.join(rng.choices(_WORDS[language], k=words)) + number + mark


def _asked(question: Question) -> str:
    return "\n\n".join(part for part in question if part is not None)


def _alpaca(turns: Turns) -> Row:
    *earlier, ((instruction, own), answer) = turns
    row: Row = {"instruction": instruction, "output": answer}
    if own is not None:
        row["input"] = own
    if earlier:
        row["history"] = [[_asked(question), said] for question, said in earlier]
    return row


def _prompt(turns: Turns) -> Row:
    return {"prompt": _asked(turns[-1][0]), "completion": turns[-1][1]}


def _answered(turns: Turns) -> Row:
    return {"question": _asked(turns[-1][0]), "answer": turns[-1][1]}


def _mapped(turns: Turns) -> Row:
    return {"ask": _asked(turns[-1][0]), "reply": turns[-1][1], "topic": "hours"}


def _messages(turns: Turns) -> Row:
    said = [
        (role, text) for question, answer in turns for role, text in (("user", _asked(question)), ("assistant", answer))
    ]
    return {"messages": [{"role": role, "content": text} for role, text in [("system", "Be brief."), *said]]}


def _sharegpt(turns: Turns) -> Row:
    said = [(who, text) for question, answer in turns for who, text in (("human", _asked(question)), ("gpt", answer))]
    return {"conversations": [{"from": who, "value": text} for who, text in said], "system": ""}


_MAKERS: tuple[Callable[[Turns], Row], ...] = (_alpaca, _alpaca, _prompt, _answered, _mapped, _messages, _sharegpt)


def touched(rng: Random, row: Any) -> Any:
    """The row with a little added to one of its texts."""
    row = copy.deepcopy(row)
    texts = [(holder, key) for holder, key in _places(row) if isinstance(holder[key], str)]
    for holder, key in rng.sample(texts, min(1, len(texts))):
        holder[key] += rng.choice((" ", "!", " lamp", "灯", " 7"))
    return row


def faulty(rng: Random, row: Any) -> Any:
    """The row with something in it removed, renamed, doubled, or replaced by what should not be there."""
    row = copy.deepcopy(row)
    places = list(_places(row))
    if not places or rng.random() < 0.05:
        return rng.choice(_STRANGE)
    holder, key = rng.choice(places)
    change = rng.choice(("replace", "replace", "copy", "remove", "rename", "double"))
    if change == "replace":
        holder[key] = copy.deepcopy(rng.choice(_STRANGE))
    elif change == "copy":
        other, its = rng.choice(places)
        holder[key] = copy.deepcopy(other[its])
    elif change == "remove":
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif change == "rename":
        holder[rng.choice(("text", "输出", " output", "\ud83d"))] = holder.pop(key)
    return row


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a row, however deep: what holds it, and its key there."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


def encoded(rng: Random, rows: list[Any], form: str) -> bytes:
    """A file of one form with those of the rows that it can hold."""
    if form == "parquet":
        return _parquet([row for row in rows if isinstance(row, dict)])
    if form == "csv":
        flat = [row for row in rows if isinstance(row, dict) and not {"messages", "conversations"} & row.keys()]
        text = _csv(rng, [row for row in flat if row.keys() & flat[0].keys() & {"instruction", "prompt", "question"}])
    else:
        text = _json(rng, rows, form)
    mark = "\ufeff" if rng.random() < 0.1 else ""
    return (mark + text).encode("utf-8", "surrogatepass")


def _json(rng: Random, rows: list[Any], form: str) -> str:
    style: dict[str, Any] = {"ensure_ascii": rng.random() < 0.5}
    end = rng.choice(("\n", "\n", "\r\n", "\n\n"))
    if form == "array":
        return json.dumps(rows, indent=rng.choice((None, 0, 2)), **style) + rng.choice(("", end))
    indent = 1 if form == "values" else None
    return "".join(json.dumps(row, indent=indent, **style) + end for row in rows)


def _csv(rng: Random, rows: list[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=rng.choice(",;\t"), lineterminator=rng.choice(("\n", "\r\n")))
    writer.writerow(names)
    writer.writerows([_cell(row.get(name, "")) for name in names] for row in rows)
    return file.getvalue()


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parquet(rows: list[Row]) -> bytes:
    """As many of the rows as have the same types in their columns: all, or half, or a quarter …"""
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["instruction"]
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), sink)
    except (pa.ArrowException, UnicodeError, OverflowError):
        return _parquet(rows[: len(rows) // 2])
    return sink.getvalue().to_pybytes()


def compressed(data: bytes, packed: str) -> bytes:
    """The bytes as a file of this ending holds them."""
    if packed == ".gz":
        return gzip.compress(data, mtime=0)
    return pa.compress(data, codec="zstd", asbytes=True) if packed == ".zst" else data


def damaged(rng: Random, data: bytes) -> bytes:
    """The bytes with one to three things done to them that editors, exports and networks do."""
    for _ in range(rng.randint(1, 3)):
        first, last = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        last = min(last, first + rng.choice((1, 5, 200)))
        change = rng.choice(
            ("cut short", "cut out", "repeat", "put in", "put in", "overwrite", "overwrite", "wide", "gbk")
        )
        junk = rng.choice(_JUNK)
        if change == "cut short":
            data = data[:first]
        elif change == "cut out":
            data = data[:first] + data[last:]
        elif change == "repeat":
            data = data[:last] + data[first:]
        elif change == "put in":
            data = data[:first] + junk + data[first:]
        elif change == "overwrite":
            data = data[:first] + junk + data[first + len(junk) :]
        elif rng.random() < 0.2:
            text = data.decode("utf-8", "replace")
            data = text.encode("utf-16" if change == "wide" else "gbk", "replace")
    return data
