"""However the base is named, what is pinned is its content: the same bytes everywhere, and nothing that runs code."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from stages import base
from stages.lib import models
from stages.lib.artifacts import replacing, sha256
from stages.lib.errors import UserError
from stages.lib.pinned import load_pinned
from stages.params.base import BaseParams
from tests import bases, on_disk

NEVER_BY_ACCIDENT = "sha256:" + "0" * 64


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """Model folders by kind; tests that change one copy it first."""
    root = tmp_path_factory.mktemp("originals")
    return {kind: on_disk.model_folder(root / kind, kind) for kind in ("llama", "gpt2", "qwen2")}


@pytest.fixture
def llama(originals, tmp_path):
    return shutil.copytree(originals["llama"], tmp_path / "model")


@pytest.fixture(scope="session")
def gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, on_disk.write_gguf(path)


def pin(name, out, revision=None):
    """Run the stage into `out`, and read the result back as the next stage would."""
    with replacing(out) as work:
        base.pin(BaseParams(name=str(name), revision=revision), work)
    return load_pinned(out)


def refusal(name, tmp_path, revision=None):
    """The sentence with which the stage refuses; nothing is left behind."""
    with pytest.raises(UserError) as caught:
        pin(name, tmp_path / "out", revision)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("llama", "LlamaForCausalLM"), ("gpt2", "GPT2LMHeadModel"), ("qwen2", "Qwen2ForCausalLM")],
)
def test_a_folder_is_pinned_by_content_and_its_weights_stay_where_they_are(originals, tmp_path, kind, architecture):
    folder = originals[kind]
    pinned = pin(folder, tmp_path / "base")
    assert (pinned.source, pinned.weights_in, pinned.architecture) == ("folder", "folder", architecture)
    assert (pinned.context, pinned.vocab_size, pinned.dtype) == (512, 400, "float32")
    assert (pinned.bos, pinned.eos, pinned.pad, pinned.adds_bos) == (None, "<|im_end|>", "<|im_end|>", False)
    assert pinned.weights["model.safetensors"].sha256 == sha256(folder / "model.safetensors")
    assert pinned.chat_template(tmp_path / "base") == bases.SMOL
    assert not list((tmp_path / "base").glob("*.safetensors"))
    loaded = models.load_base(pinned, torch.float32, base=tmp_path / "base")
    assert pinned.parameters == sum(parameter.numel() for parameter in loaded.parameters())


def test_an_embedding_with_more_rows_than_the_tokenizer_has_tokens_is_kept(tmp_path):
    """Field fault 27: nothing is resized."""
    folder = on_disk.model_folder(tmp_path / "model")
    on_disk.tiny.tiny_llama(vocabulary=512).save_pretrained(folder)
    pinned = pin(folder, tmp_path / "base")
    assert pinned.vocab_size == 512 > len(models.load_tokenizer(tmp_path / "base"))
    loaded = models.load_base(pinned, torch.float32, base=tmp_path / "base")
    assert loaded.get_input_embeddings().weight.shape[0] == loaded.config.vocab_size == 512


def test_a_tokenizer_that_knows_tokens_without_a_row_in_the_embedding_is_pointed_out(tmp_path, capsys):
    """Such a token in a prompt would stop training with an index error; Gemma 3 ships one and does well without it."""
    folder = on_disk.model_folder(tmp_path / "model")
    on_disk.tiny.tiny_llama(vocabulary=390).save_pretrained(folder)
    pin(folder, tmp_path / "base")
    assert "the tokenizer knows 400 tokens, the model has rows for 390" in capsys.readouterr().err


def test_weights_that_are_quantized_already_are_refused_before_anything_is_trained(llama, tmp_path):
    config = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    quantized = config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (llama / "config.json").write_text(json.dumps(quantized), encoding="utf-8")
    with pytest.raises(UserError, match="quantized already"):
        pin(llama, tmp_path / "base")


def test_a_tokenizer_that_puts_bos_first_is_noticed(llama, tmp_path):
    text = bases.adding_bos((llama / "tokenizer.json").read_text(encoding="utf-8"), "<|im_start|>")
    (llama / "tokenizer.json").write_text(text, encoding="utf-8")
    settings = json.loads((llama / "tokenizer_config.json").read_text(encoding="utf-8"))
    (llama / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|im_start|>"}), encoding="utf-8")
    assert pin(llama, tmp_path / "base").adds_bos


def test_the_same_model_in_two_places_gives_the_same_bytes(originals, tmp_path, monkeypatch):
    written = []
    for place in ("here", "much/further/down"):
        (tmp_path / place).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / place)
        shutil.copytree(originals["llama"], "my-model")
        pin("my-model", tmp_path / place / "base")
        written.append({file.name: file.read_bytes() for file in (tmp_path / place / "base").iterdir()})
    assert written[0] == written[1]
    assert not [name for name, content in written[0].items() if str(tmp_path).encode() in content]


def test_shards_are_found_through_their_index(llama, tmp_path):
    names = on_disk.make_sharded(llama)
    pinned = pin(llama, tmp_path / "base")
    assert sorted(pinned.weights) == names
    assert pinned.parameters == sum(part.numel() for name in names for part in load_file(llama / name).values())
    models.load_base(pinned, torch.float32, base=tmp_path / "base")


def test_a_slow_tokenizer_becomes_tokenizer_json_with_the_same_ids(llama, tmp_path):
    fast = pin(llama, tmp_path / "fast")
    expected = models.load_tokenizer(tmp_path / "fast")("Order 4711: 退款").input_ids
    shutil.rmtree(llama)
    on_disk.make_slow(on_disk.model_folder(llama, "gpt2"))
    slow = pin(llama, tmp_path / "slow")
    assert models.load_tokenizer(tmp_path / "slow")("Order 4711: 退款").input_ids == expected
    assert fast.eos == slow.eos


def without(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def one_shard_less(folder):
    (folder / on_disk.make_sharded(folder)[1]).unlink()


def lfs_pointer(folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134\n"
    (folder / "model.safetensors").write_text(pointer, encoding="utf-8")


def cut(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def config(**settings):
    def change(folder):
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(content | settings), encoding="utf-8")

    return change


def broken_config(folder):
    (folder / "config.json").write_text('{"model_type": ', encoding="utf-8")


def lone_sentencepiece(folder):
    without("tokenizer.json", "tokenizer_config.json")(folder)
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("llama", pickled, "holds no model.safetensors, only pytorch_model.bin, and pickled weights can run code"),
        ("llama", without("model.safetensors"), "holds no model.safetensors. Choose a base with safetensors"),
        ("llama", one_shard_less, "names model-00002-of-00002.safetensors, which is not there"),
        ("llama", lfs_pointer, "is no whole safetensors file"),  # a git clone without git-lfs
        ("llama", cut, "is no whole safetensors file"),
        ("llama", without("config.json"), "holds no config.json"),
        ("llama", broken_config, "config.json is damaged"),
        ("llama", config(auto_map={"AutoModelForCausalLM": "modeling.Mine"}), "needs Python code of its own"),
        ("llama", config(model_type="novel"), "is of type 'novel'"),
        ("llama", config(model_type="vit"), "is of type 'vit'"),  # known, but writes no text
        ("llama", without("tokenizer.json", "tokenizer_config.json"), "holds no tokenizer that can be read"),
        # transformers would make up a tokenizer of one token
        ("gpt2", without("tokenizer.json", "tokenizer_config.json"), "holds no tokenizer that can be read"),
        ("qwen2", without("tokenizer.json"), "holds no tokenizer that can be read"),
        ("llama", lone_sentencepiece, "a lone tokenizer.model must be converted once"),
    ],
)
def test_a_folder_that_is_no_safe_whole_model_is_refused_in_a_sentence(originals, tmp_path, kind, change, sentence):
    folder = shutil.copytree(originals[kind], tmp_path / "model")
    change(folder)
    said = refusal(folder, tmp_path)
    assert sentence in said
    assert said.count("\n") == 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no/such/folder/here", "there is no such folder or file, and it is no hub id"),
        ("../nowhere", "there is no such folder or file"),
        ("my model", "there is no such folder or file"),
        ("nowhere/tiny.gguf", "there is no such file"),
        ("package:not_installed_here/tiny.gguf", "no package not_installed_here is installed"),
        ("package:json/tiny.gguf", "json holds no file 'tiny.gguf'"),
        ("package:", "is installed"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused_without_asking_a_hub(tmp_path, monkeypatch, name, sentence):
    monkeypatch.setattr(base.hub, "fetch", lambda *_: pytest.fail("a hub was asked"))
    assert sentence in refusal(name, tmp_path)


def test_a_folder_has_no_revisions(llama, tmp_path):
    assert "has no revisions" in refusal(llama, tmp_path, revision="main")


def test_a_gguf_file_becomes_safetensors_that_compute_the_same(gguf, tmp_path):
    path, original = gguf
    pinned = pin(path, tmp_path / "base", revision=f"sha256:{sha256(path)}")
    assert (pinned.source, pinned.weights_in, pinned.architecture) == ("gguf", "here", "LlamaForCausalLM")
    assert (pinned.revision, pinned.eos, pinned.context) == (sha256(path), "<|im_end|>", 512)
    assert pinned.chat_template(tmp_path / "base") == bases.SMOL
    assert "lm_head.weight" not in load_file(tmp_path / "base/model.safetensors")  # tied: written once
    ids = models.load_tokenizer(tmp_path / "base")("Read the order number 4711", return_tensors="pt").input_ids
    again = models.load_base(pinned, torch.float32, base=tmp_path / "base")
    torch.testing.assert_close(again(ids).logits, original(ids).logits, rtol=0, atol=1e-5)
    assert "quantization_config" not in again.config.to_dict()


def test_a_gguf_file_in_two_places_gives_the_same_bytes(gguf, tmp_path, monkeypatch):
    written = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        shutil.copy(gguf[0], "tiny.gguf")
        pin("tiny.gguf", tmp_path / place / "base")
        written.append({file.name: file.read_bytes() for file in (tmp_path / place / "base").iterdir()})
    assert written[0] == written[1]
    assert not [name for name, content in written[0].items() if str(tmp_path).encode() in content]


def test_another_gguf_file_than_the_one_insisted_on_is_refused(gguf, tmp_path):
    said = refusal(gguf[0], tmp_path, revision=NEVER_BY_ACCIDENT)
    assert "base.revision is 'sha256:0000" in said
    assert sha256(gguf[0]) in said


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_cut_gguf_file_is_refused(gguf, tmp_path, share):
    content = gguf[0].read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(len(content) * share)])
    assert "cut.gguf is no GGUF model that transformers reads, or is damaged" in refusal(path, tmp_path)


def test_a_file_that_only_calls_itself_gguf_is_refused(tmp_path):
    (tmp_path / "page.gguf").write_text("<html>404</html>" * 100, encoding="utf-8")
    assert "page.gguf is no GGUF model" in refusal(tmp_path / "page.gguf", tmp_path)


def test_a_file_of_an_installed_package_is_pinned_without_importing_the_package(gguf, tmp_path, monkeypatch):
    on_disk.install(tmp_path / "site", "tiny_package", gguf[0])
    monkeypatch.syspath_prepend(tmp_path / "site")
    pinned = pin("package:tiny_package/tiny.gguf", tmp_path / "base")
    assert (pinned.source, pinned.name) == ("package", "package:tiny_package/tiny.gguf")
    assert pinned.revision == sha256(gguf[0])


def test_a_base_whose_files_changed_is_refused_when_it_is_loaded(llama, tmp_path):
    pinned = pin(llama, tmp_path / "base")
    on_disk.tiny.tiny_llama(seed=1).save_pretrained(llama)  # same shapes, other weights
    with pytest.raises(UserError, match=r"model\.safetensors is not the file that base recorded"):
        models.load_base(pinned, torch.float32, base=tmp_path / "base")


def test_the_stage_ends_with_one_line_about_the_base(llama, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "load", lambda _: BaseParams(name="model", revision=None))
    base.main()
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith("base: model · LlamaForCausalLM · 0.0 M parameters · 0 MB float32 (folder) → models/base/")
    assert (tmp_path / "models/base/base.json").is_file()
