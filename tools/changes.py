"""Two changes of the demo whose outcome is known beforehand: do the gates and `compare` say the right thing of them?

    python -m tools.changes harmful    trains on answers shuffled among the rows of a category: merge must refuse
    python -m tools.changes neutral    trains with another seed: compare must find no significant difference

Each takes as long as training does, in a clone in a temporary folder, with what DVC's cache holds of this commit.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
SEED = 13


def shuffle(table: pa.Table, seed: int) -> pa.Table:
    """Records whose last answers were shuffled within each category; as chance has it, a few keep their own."""
    rows = table.to_pylist()
    by_category = defaultdict(list)
    for row in rows:
        by_category[row["category"]].append(row["messages"])
    chance = random.Random(seed)
    for conversations in by_category.values():
        answers = [messages[-1]["content"] for messages in conversations]
        chance.shuffle(answers)
        for messages, answer in zip(conversations, answers, strict=True):
            messages[-1]["content"] = answer
    return pa.Table.from_pylist(rows, schema=table.schema)


def harmful(clone: Path) -> bool:
    """Whether a model that was trained on wrong answers is refused."""
    for split in ("train", "validation"):
        path = clone / f"data/splits/{split}.parquet"
        table = shuffle(pq.read_table(path), SEED)
        path.unlink()  # it may be a link into DVC's cache
        pq.write_table(table, path)
    for stage in ("format", "tokenize", "train", "evaluate"):
        run(clone, "-m", f"stages.{stage}")
    refused = run(clone, "-m", "stages.merge", check=False)
    return refused.returncode != 0 and "the model was not merged, because" in refused.stderr


def neutral(clone: Path) -> bool:
    """Whether another training of the same rows is called no change."""
    params = clone / "params.yaml"
    text, count = re.subn(r"(?m)^  seed: null", f"  seed: {SEED}", params.read_text(encoding="utf-8"))
    if count != 1:
        raise SystemExit("params.yaml: train.seed is not null. Set it so before.")
    params.write_text(text, encoding="utf-8")
    for stage in ("train", "evaluate"):
        run(clone, "-m", f"stages.{stage}")
    return "\nno significant difference\n" in run(clone, "-m", "stages.compare", "HEAD").stdout


def run(clone: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Python in the clone, and show what it says."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=clone,
        env=os.environ | {"RETUNE_CKPT_ROOT": str(clone / ".ckpt")},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr, sep="", end="", flush=True)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}")
    return done


def main() -> None:
    """Make a clone, change it, say whether the change was seen for what it is."""
    parser = argparse.ArgumentParser(prog="python -m tools.changes", description=(__doc__ or "").splitlines()[0])
    changes = {"harmful": harmful, "neutral": neutral}
    parser.add_argument("change", choices=changes)
    chosen = parser.parse_args().change
    cache = subprocess.run(["dvc", "cache", "dir"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        for command in (
            ["git", "clone", "--quiet", str(ROOT), str(clone)],
            ["dvc", "cache", "dir", "--local", str((ROOT / cache).resolve())],
            ["dvc", "checkout", "--quiet", "--allow-missing"],
        ):
            subprocess.run(command, cwd=clone if clone.exists() else ROOT, check=True)
        is_seen = changes[chosen](clone)
    print(f"changes: the {chosen} change was {'seen for what it is' if is_seen else 'NOT seen for what it is'}")
    raise SystemExit(not is_seen)


if __name__ == "__main__":
    main()
