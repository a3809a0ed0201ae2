"""What a queued or `--temp` experiment has to make sure of: it runs in a copy that holds only what git tracks."""

import os
import shlex
from pathlib import Path

from stages.lib.errors import UserError

# What stages/lib/sources.py reads. Importing that would make every reader of raw rows a dependency of train; a test
# holds the two together.
DATA = (".json", ".jsonl", ".csv", ".parquet")
PACKED = (".gz", ".zst")


def require_all_files(folder: Path) -> None:
    """Stop when the main folder has files that the copy lacks: the run would go on with less, without a word.

    Raises:
        UserError: naming the files, and how to bring them along.
    """
    main = os.environ.get("DVC_ROOT")
    if main is None or Path(main).resolve() == Path.cwd().resolve():
        return
    if missing := sorted(_names(Path(main) / folder) - _names(folder)):
        names = shlex.join(f"{folder.as_posix()}/{name}" for name in missing)
        raise UserError(
            f"{names} stayed behind: this experiment runs in a copy that has only what git tracked when it was made. "
            f"Run `git add {names}` in the main folder, and start the experiment again."
        )


def _names(folder: Path) -> set[str]:
    """Files with rows below a folder, but for hidden ones."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if _has_rows(path.name.lower()))
    return {path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)}


def _has_rows(name: str) -> bool:
    packed = tuple(ending + packing for ending in DATA for packing in PACKED)
    return name.endswith((*DATA, *packed))
