"""A base comes off a hub once, without anything that could run code, and serves from the cache ever after."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.lib import hub
from stages.lib.errors import UserError
from tests import hub_server, on_disk

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "acme/tiny"
LOAD = """
import torch
from stages.lib import models
from stages.lib.pinned import load_pinned
model = models.load_base(load_pinned(), torch.float32)
print(type(model).__name__, len(models.load_tokenizer()("Order 4711").input_ids))
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """Repositories as authors leave them: with pickles, code and prose beside the safetensors, or pickles alone."""
    root = tmp_path_factory.mktemp("hub")
    folder = on_disk.model_folder(root / "tiny")
    for extra in ("pytorch_model.bin", "training_args.bin", "modeling_tiny.py", "README.md", "tf_model.h5"):
        (folder / extra).write_text("not wanted", encoding="utf-8")
    sharded = shutil.copytree(folder, root / "sharded")
    on_disk.make_sharded(sharded)
    pickled = root / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").unlink()
    return {NAME: folder, "acme/sharded": sharded, "acme/pickled": pickled, "acme/gated": folder}


@pytest.fixture
def clone(tmp_path):
    """A folder in which stages run, with a hub cache of its own."""
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def python(clone, arguments, endpoint):
    """Run Python in the clone as DVC would, with the hub at `endpoint`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(clone / "hf"), "HF_ENDPOINT": endpoint, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )


def run_base(clone, endpoint):
    yaml = YAML(typ="safe", pure=True)
    document = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    document["base"] = {"name": NAME, "revision": None}
    with open(clone / "params.yaml", "w", encoding="utf-8") as file:
        yaml.dump(document, file)
    return python(clone, ["-m", "stages.base"], endpoint)


def test_a_branch_becomes_a_commit_and_serves_without_the_hub_from_then_on(repositories, clone):
    with hub_server.serving(repositories) as server:
        done = run_base(clone, server.endpoint)
        assert done.returncode == 0, done.stderr
        fetched = sorted(server.fetched)
    wanted = (
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    )
    assert fetched == [f"{NAME}/{file}" for file in wanted]
    online = {file.name: file.read_bytes() for file in (clone / "models/base").iterdir()}
    assert f'"revision": "{hub_server.commit(NAME)}"'.encode() in online["base.json"]
    assert not [name for name, content in online.items() if str(clone).encode() in content]

    loaded = python(clone, ["-c", LOAD], server.endpoint)
    assert loaded.stdout.startswith("LlamaForCausalLM "), loaded.stderr

    shutil.rmtree(clone / "models")
    again = run_base(clone, server.endpoint)
    assert again.returncode == 0, again.stderr
    assert "warning: the hub cannot be reached" in again.stderr
    assert "using the copy of acme/tiny in the cache" in again.stderr
    assert {file.name: file.read_bytes() for file in (clone / "models/base").iterdir()} == online


@pytest.fixture
def fetch(monkeypatch, tmp_path):
    """`hub.fetch` in this process, from a server, into an empty cache."""
    from huggingface_hub import constants

    def go(endpoint, name, revision=None):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        route = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + route)
        return hub.fetch(name, revision)

    return go


def test_of_a_sharded_model_the_shards_that_its_index_names_are_fetched(repositories, fetch):
    with hub_server.serving(repositories) as server:
        folder, commit = fetch(server.endpoint, "acme/sharded", "main")
    assert commit == folder.name == hub_server.commit("acme/sharded")
    weights = {file.name for file in folder.iterdir() if file.suffix not in (".json", ".jinja")}
    assert weights == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert fetch(server.endpoint, "acme/sharded") == (folder, commit)  # the server is gone


def test_a_commit_that_is_named_is_the_one_that_is_fetched(repositories, fetch):
    with hub_server.serving(repositories) as server:
        assert fetch(server.endpoint, NAME, hub_server.commit(NAME))[1] == hub_server.commit(NAME)


@pytest.mark.parametrize(
    ("name", "revision", "sentence"),
    [
        ("acme/pickled", None, "holds no model.safetensors at {commit} (only pytorch_model.bin, tf_model.h5"),
        ("acme/unknown", None, "base.name is 'acme/unknown', but the hub has no such model, or not for you"),
        (NAME, "v9", "base.revision is 'v9', but acme/tiny has no such branch, tag or commit"),
        (NAME, "0" * 40, "base.revision is '0000000000000000000000000000000000000000', but acme/tiny has no such"),
        ("acme/gated", None, "acme/gated may only be fetched by people who accepted its terms"),
        ("acme/tiny--x..y", None, "which is no hub id"),
    ],
)
def test_what_the_hub_will_not_or_must_not_give_is_refused_in_a_sentence(repositories, fetch, name, revision, sentence):
    with hub_server.serving(repositories, gated=("acme/gated",)) as server:
        with pytest.raises(UserError) as caught:
            fetch(server.endpoint, name, revision)
        assert not [file for file in server.fetched if file.endswith((".bin", ".h5", ".py"))]
    assert sentence.format(commit=hub_server.commit(name)[:12]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_hub_and_without_copy_there_is_a_way_out(repositories, fetch):
    with hub_server.serving(repositories) as server:
        pass
    with pytest.raises(UserError, match=r"the hub cannot be reached .* and no whole copy is in the cache\. Go online"):
        fetch(server.endpoint, NAME)


def test_a_copy_that_lost_its_weights_does_not_serve(repositories, fetch):
    with hub_server.serving(repositories) as server:
        folder, _ = fetch(server.endpoint, NAME)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no whole copy is in the cache"):
        fetch(server.endpoint, NAME)


def test_a_full_disk_is_no_missing_hub(repositories, fetch, monkeypatch):
    import huggingface_hub

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with hub_server.serving(repositories) as server, pytest.raises(OSError, match="No space left"):
        fetch(server.endpoint, NAME)
