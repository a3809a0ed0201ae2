"""Find a data file inside an installed package, without importing the package, and check it against its record."""

import base64
import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

from stages.lib.errors import UserError


def find_file(place: str, asked_by: str) -> Path:
    """Find `module/path/in/module`.

    The wheel's RECORD holds a sha256 of each of its files; a file that differs from it is refused.

    Raises:
        UserError: when the package or the file is not there, or differs; `asked_by` names the param.
    """
    module, _, inside = place.partition("/")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{asked_by} is 'package:{place}', but no package {module} is installed. Run `make setup`, or install it "
            "into the same environment."
        )
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not inside or not path.is_file():
        raise UserError(f"{asked_by} is 'package:{place}', but {module} holds no file {inside!r}. Correct the name.")
    _compare_with_record(module, path, place, asked_by)
    return path


def _compare_with_record(module: str, path: Path, place: str, asked_by: str) -> None:
    for name in importlib.metadata.packages_distributions().get(module, []):
        for entry in importlib.metadata.files(name) or []:
            if entry.hash is None or entry.hash.mode != "sha256" or entry.as_posix() != place:
                continue
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != entry.hash.value:
                raise UserError(
                    f"{asked_by}: {path.name} is not the file that the package {name} was installed with. "
                    f"Install {name} again."
                )
