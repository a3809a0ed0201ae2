"""Fetch a base from a model hub: the only code in Retune that uses the network, and only for the `base` stage."""

import json
from pathlib import Path

from stages.lib.errors import UserError, is_disk_full, warn

TOKENIZER_AND_CONFIG = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def fetch(name: str, revision: str | None) -> tuple[Path, str]:
    """Resolve a branch, tag or commit to a commit, and bring its safetensors, config and tokenizer into the hub cache.

    Nothing else is fetched: no pickled weights, no code. When the hub cannot be reached, a copy that an earlier run
    left in the cache serves.

    Returns:
        The folder of the cached snapshot, and the commit (40 hex digits).

    Raises:
        UserError: when model or revision does not exist, may not be read, or holds no safetensors weights.
    """
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    asked = revision or "main"
    try:
        info = HfApi().model_info(name, revision=asked)
        there = {file.rfilename for file in info.siblings or []}
        wanted = _wanted(name, str(info.sha), there)
        folder = Path(snapshot_download(name, revision=asked, allow_patterns=wanted))
    except GatedRepoError:
        raise UserError(
            f"params.yaml: base.name: {name} may only be fetched by people who accepted its terms. Accept them on "
            "the hub's page, then log in with `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"params.yaml: base.name is {name!r}, but the hub has no such model, or not for you. Check the spelling; "
            "for a private model log in with `hf auth login`."
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f"params.yaml: base.revision is {asked!r}, but {name} has no such branch, tag or commit."
        ) from None
    except HFValidationError as error:
        raise UserError(f"params.yaml: base.name is {name!r}, which is no hub id: {error}") from None
    except (HTTPError, OSError) as error:
        if is_disk_full(error):
            raise
        folder = _from_cache(name, asked, error)
    return folder, folder.name


def _wanted(name: str, commit: str, there: set[str]) -> list[str]:
    """The files to fetch at one commit: tokenizer, config, and the safetensors that make up the model."""
    from huggingface_hub import hf_hub_download

    wanted = [file for file in (*TOKENIZER_AND_CONFIG, WEIGHTS, INDEX) if file in there]
    if WEIGHTS in there:
        return wanted
    if INDEX in there:
        index = json.loads(Path(hf_hub_download(name, INDEX, revision=commit)).read_text(encoding="utf-8"))
        return [*wanted, *sorted(set(index["weight_map"].values()))]
    pickled = sorted(file for file in there if file.endswith((".bin", ".pt", ".pth", ".h5", ".msgpack")))
    what = f"only {', '.join(pickled[:3])}, and pickled weights can run code when loaded" if pickled else "no weights"
    raise UserError(
        f"params.yaml: base.name: {name} holds no {WEIGHTS} at {commit[:12]} ({what}). "
        "Choose a base with safetensors weights."
    )


def _from_cache(name: str, revision: str, error: Exception) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    # The hub library takes a copy for whole only if nothing is missing that the patterns let through. Shards are not
    # among them: which ones the model needs stands in the index, and the stage looks for them there.
    files = [*TOKENIZER_AND_CONFIG, WEIGHTS, INDEX]
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=files))
    except LocalEntryNotFoundError:
        raise UserError(
            f"params.yaml: base.name is {name!r}, but the hub cannot be reached ({reason}) and no whole copy is in "
            "the cache. Go online once, or name a local folder or GGUF file."
        ) from None
    warn(f"the hub cannot be reached ({reason}); using the copy of {name} in the cache, {folder.name[:12]}.")
    return folder
