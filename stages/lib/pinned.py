"""The pinned base: what `models/base/base.json` says, and proof that the disk still holds just that. No torch here."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stages.lib import artifacts
from stages.lib.errors import UserError

BASE = Path("models/base")
MANIFEST = "base.json"


@dataclass(frozen=True)
class PinnedFile:
    """Content of one file."""

    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Pinned:
    """A base model, resolved to contents.

    `weights_in` says where the weight files of `weights` lie: "here" (beside base.json, because they were converted),
    "folder" (the folder that the user named) or "hub" (the hub cache, at `revision`).
    """

    name: str
    source: str  # hub | folder | gguf | package
    revision: str | None  # hub: commit; gguf and package: sha256 of the GGUF file
    architecture: str  # e.g. LlamaForCausalLM
    context: int  # tokens that the model can read
    vocab_size: int  # rows of the embedding, which may be more than the tokenizer knows
    parameters: int
    dtype: str  # of the weights on disk, e.g. float32
    bos: str | None
    eos: str | None
    pad: str | None
    unk: str | None
    adds_bos: bool  # whether the tokenizer itself puts BOS first
    weights_in: str
    weights: dict[str, PinnedFile] = field(default_factory=dict)
    files: dict[str, PinnedFile] = field(default_factory=dict)  # beside base.json: tokenizer, config, chat template

    def as_json(self) -> dict[str, Any]:
        """The content of base.json."""
        return asdict(self)

    def chat_template(self, folder: Path = BASE) -> str | None:
        """The base's own chat template (Jinja), or None."""
        path = folder / "chat_template.jinja"
        return path.read_text(encoding="utf-8") if path.name in self.files else None


def load_pinned(folder: Path = BASE) -> Pinned:
    """Read base.json and check the small files beside it.

    Raises:
        UserError: when base.json is missing or a file beside it is not the one that was pinned.
    """
    content = artifacts.read_json(folder / MANIFEST, made_by="base")
    try:
        pinned = Pinned(**content | {key: as_files(content[key]) for key in ("weights", "files")})
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{folder / MANIFEST} is damaged. Run `dvc repro -f base` to write it again.") from None
    verify(folder, pinned.files)
    return pinned


def as_files(content: dict[str, dict[str, Any]]) -> dict[str, PinnedFile]:
    """Files as JSON holds them."""
    return {name: PinnedFile(**entry) for name, entry in content.items()}


def describe(folder: Path, names: list[str]) -> dict[str, PinnedFile]:
    """Hash files, in the order of their names."""
    return {name: PinnedFile(artifacts.sha256(folder / name), (folder / name).stat().st_size) for name in sorted(names)}


def verify(folder: Path, expected: dict[str, PinnedFile], made_by: str = "base") -> None:
    """Compare files with what was pinned: size first, then every byte.

    Raises:
        UserError: naming the first file that is missing or differs.
    """
    for name, entry in expected.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing. Run `dvc repro -f {made_by}`.")
        if path.stat().st_size != entry.size or artifacts.sha256(path) != entry.sha256:
            raise UserError(
                f"{path} is not the file that {made_by} recorded: its content has changed. Put the old file back, "
                f"or run `dvc repro -f {made_by}`."
            )
