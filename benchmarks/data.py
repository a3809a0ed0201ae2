"""How fast validate is, and what it finds, beside a datasketch pass over the same rows.

`python -m benchmarks.data [--rows N] [--rounds N]` writes synthetic rows into a temporary folder, lets both read them
in turn, each in a process of its own, start-up included, and prints rows a second, their ratio and what was found. The
peer does less: it parses, cuts and hashes the same questions, and asks its index (MinHashLSH, 16 bands of 8) for like
ones; it judges no row, verifies no pair and writes nothing.

With `--stages` it runs validate and split once instead, says how much memory they took and what an edited row costs.

datasketch is no dependency of Retune: `pip install -c constraints.txt --group peers` first, or the peer is left out.
"""

import argparse
import json
import random
import shutil
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.turns import in_turn, timed

ROOT = Path(__file__).parents[1]
WORDS = 83  # of a row, on average: 55 asked, 28 answered
VOCABULARY = 50_000  # drawn by Zipf's law
AT = 0.7  # validate.near_duplicate


@dataclass(frozen=True)
class Row:
    """A synthetic row; `repeats` names the row that it was made from, `shared` counts the words of the instruction."""

    question: str
    answer: str
    shared: int = 0
    repeats: int | None = None


def synthetic(count: int, seed: int = 1) -> list[Row]:
    """Rows as research sets have them: a tenth share their first 40 words, a fifth repeat another more or less."""
    rng = random.Random(seed)
    letters = string.ascii_lowercase
    vocabulary = list(dict.fromkeys("".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(VOCABULARY)))
    weights = list(accumulate(1 / rank for rank in range(1, len(vocabulary) + 1)))

    def drawn(mean: int) -> list[str]:
        return rng.choices(vocabulary, cum_weights=weights, k=rng.randint(mean // 2, mean * 3 // 2))

    template = drawn(40)
    rows: list[Row] = []
    while len(rows) < count:
        kind = rng.random()
        if not rows or kind < 0.7:
            rows.append(Row(" ".join(drawn(55)), " ".join(drawn(28))))
        elif kind < 0.8:
            own = [rng.choice(vocabulary), *drawn(14)]  # what follows the instruction is no part of it, even by chance
            rows.append(Row(" ".join([*template, *own]), " ".join(drawn(28)), len(template)))
        else:
            place = rng.randrange(len(rows))
            rows.append(_changed(rows[place], place, kind, vocabulary, rng))
    return rows


def _changed(row: Row, place: int, kind: float, vocabulary: list[str], rng: random.Random) -> Row:
    """The same again, in other case and spacing, or with one word in 50, 25, 15 or 8 of its own exchanged."""
    if kind < 0.85:
        return replace(row, repeats=place)
    if kind < 0.875:
        return replace(row, question=row.question.upper().replace(" ", "  "), repeats=place)
    words = row.question.split()
    for _ in range(max(1, (len(words) - row.shared) // rng.choice((50, 25, 15, 8)))):
        words[rng.randrange(row.shared, len(words))] = rng.choice(vocabulary)
    return replace(row, question=" ".join(words), repeats=place)


def likeness(one: Row, other: Row, own: bool = True) -> float:
    """Jaccard similarity of word 3-grams, blind to case and spacing, in what is asked or in what is own of it."""
    a, b = (
        {tuple(words[at : at + 3]) for at in range(max(0, row.shared - 2) if own else 0, len(words) - 2)}
        for row in (one, other)
        if (words := row.question.lower().split())
    )
    return len(a & b) / len(a | b)


def workspace(folder: Path, rows: list[Row]) -> None:
    """What `python -m stages.validate` needs to run in a folder of its own."""
    shutil.copytree(ROOT / "stages", folder / "stages")
    settings = YAML().load(ROOT / "params.yaml")
    settings["validate"]["max_reject_share"] = 0.9
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(settings, file)
    raw = folder / "data/raw"
    raw.mkdir(parents=True)
    shutil.copy(ROOT / "data/unsafe.txt", raw.parent)
    with (raw / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"instruction": row.question, "output": row.answer}) + "\n" for row in rows)


def validated(folder: Path) -> float:
    """Seconds that validate takes from scratch."""
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return timed(folder, "-m", "stages.validate")


def weighed(folder: Path, *command: str) -> tuple[float, float, float]:
    """Seconds that a command takes, and the most memory, in GiB, of all its processes: their own, and with files."""
    begin, own, whole = time.perf_counter(), 0.0, 0.0
    process = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        sizes = [_resident(pid) for pid in (process.pid, *_children(process.pid))]
        own, whole = max(own, sum(size[0] for size in sizes)), max(whole, sum(size[1] for size in sizes))
        time.sleep(0.1)
    assert process.returncode == 0
    return time.perf_counter() - begin, own, whole


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _resident(pid: int) -> tuple[float, float]:
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return tuple(int(fields[name].split()[0]) / 2**20 for name in ("RssAnon", "VmRSS"))  # type: ignore[return-value]
    except (OSError, KeyError):
        return 0.0, 0.0


def through(folder: Path, count: int) -> None:
    """Validate and split, with their memory; then one row is edited."""
    for stage in ("validate", "split"):
        seconds, own, whole = weighed(folder, "-m", f"stages.{stage}")
        memory = f"{own:.2f} GiB ({whole:.2f} with mapped files)"
        print(f"{stage}: {seconds:.1f} s, {seconds / count * 1e6:.0f} µs a row, {memory}")
    path = folder / "data/raw/rows.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    row = json.loads(lines[count // 2])
    lines[count // 2] = json.dumps(row | {"output": row["output"] + " edited"}) + "\n"
    path.write_text("".join(lines), encoding="utf-8")
    warm, after = timed(folder, "-m", "stages.validate"), outputs(folder)
    cold = validated(folder)
    assert outputs(folder) == after
    print(f"one row edited: {warm:.1f} s, cold {cold:.1f} s ({cold / warm:.2f} ×), the same bytes")


def outputs(folder: Path) -> dict[str, bytes]:
    """What validate wrote."""
    files = [*sorted((folder / "data/clean").iterdir()), folder / "reports/validate.json"]
    return {path.name: path.read_bytes() for path in files}


def peer(path: Path) -> None:
    """What there is for a Python user today: datasketch, over the questions."""
    import xxhash
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=128, params=(16, 8))
    for number, line in enumerate(path.open(encoding="utf-8")):
        words = json.loads(line)["instruction"].casefold().split()
        pieces = {" ".join(words[at : at + 3]).encode() for at in range(max(1, len(words) - 2))}
        sketch = MinHash(num_perm=128, hashfunc=xxhash.xxh32_intdigest)
        sketch.update_batch(pieces)
        index.query(sketch)
        index.insert(number, sketch, check_duplication=False)


def quality(folder: Path, rows: list[Row]) -> str:
    """Which of the planted repeats were found, and whether what was found is one."""
    rejected = [json.loads(line) for line in (folder / "data/clean/rejected.jsonl").open(encoding="utf-8")]
    gone = {one["line"] - 1 for one in rejected}
    alike = {number: likeness(rows[row.repeats], row) for number, row in enumerate(rows) if row.repeats is not None}
    planted = [number for number, value in alike.items() if value >= AT]
    found = sum(number in gone or rows[number].repeats in gone for number in planted)
    near = [one for one in rejected if one["code"] == "near-duplicate"]
    pairs = ((one["line"] - 1, int(one["detail"]["repeats"].rpartition(":")[2]) - 1) for one in near)
    right = sum(likeness(rows[one], rows[other], own=False) >= AT for one, other in pairs)
    return (
        f"{len(rejected):,} rejected, {len(near):,} of them near-duplicates · recall {found / len(planted):.4f} "
        f"of {len(planted):,} · precision {right / len(near):.4f}"
    )


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", action="store_true", help="memory of validate and split, and the cost of an edit")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        peer(arguments.peer)
        return
    folder = Path(tempfile.mkdtemp(prefix="retune-"))
    try:
        rows = synthetic(arguments.rows)
        workspace(folder, rows)
        if arguments.stages:
            del rows
            through(folder, arguments.rows)
            return
        runs: dict[str, Callable[[], float]] = {"validate": lambda: validated(folder)}
        if find_spec("datasketch"):
            path = folder / "data/raw/rows.jsonl"
            runs["datasketch"] = lambda: timed(ROOT, "-m", "benchmarks.data", "--peer", str(path))
        seconds = in_turn(runs, arguments.rounds)
        for name, times in seconds.items():
            each = ", ".join(f"{one:.1f}" for one in times)
            print(f"{name}: {len(rows) / statistics.median(times):,.0f} rows/s ({each} s)")
        if "datasketch" in seconds:
            pairs = zip(seconds["datasketch"], seconds["validate"], strict=True)
            print(f"ratio: {statistics.median(theirs / ours for theirs, ours in pairs):.2f} × datasketch")
        print(quality(folder, rows))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
