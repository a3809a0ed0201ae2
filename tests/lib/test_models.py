"""A model is loaded in one place: pinned files only, an adapter on its own base, in a type the device computes in."""

import shutil

import pytest
import torch

from stages import base
from stages.lib import artifacts, models
from stages.lib.errors import UserError
from stages.lib.pinned import load_pinned
from stages.params.base import BaseParams
from tests import on_disk, tiny

IDS = torch.tensor([[5, 9, 77, 30, 12]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Pinned tiny bases by kind: the folder `models/base` of each."""
    root = tmp_path_factory.mktemp("bases")
    for kind in ("llama", "gpt2"):
        pin(on_disk.model_folder(root / kind / "model", kind), root / kind / "base")
    return root


def pin(folder, out):
    with artifacts.replacing(out) as work:
        base.pin(BaseParams(name=str(folder), revision=None), work)
    return load_pinned(out)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_precision_that_is_named_is_used(precision, dtype):
    assert models.dtype_for(precision) == dtype


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_only_where_the_device_computes_in_it(monkeypatch, native):
    monkeypatch.setattr(models, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert models.dtype_for("auto") == (torch.bfloat16 if native else torch.float32)


def test_auto_agrees_with_the_flags_of_this_processor(monkeypatch):
    monkeypatch.setattr(models, "device", lambda: torch.device("cpu"))
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next(line for line in file if line.startswith("flags")).split()
    except (OSError, StopIteration):
        pytest.skip("this system lists no processor flags")
    native = {"avx512_bf16", "amx_bf16", "amx_tile"} & set(flags)
    assert (models.dtype_for("auto") == torch.bfloat16) == bool(native)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_is_loaded_for_judging_in_the_type_asked_for(bases, kind, dtype):
    model = models.load_base(load_pinned(bases / kind / "base"), dtype, base=bases / kind / "base")
    assert model.dtype == dtype
    assert not model.training
    assert model(IDS.to(model.device)).logits.isfinite().all()


def test_judging_a_quantized_base_leaves_its_gradients_as_they_are(bases):
    """On AVX-512, bitsandbytes would take a layout for inference that has none."""
    folder = bases / "llama/base"
    model = models.load_base(load_pinned(folder), torch.float32, quantized=True, base=folder)

    def gradient():
        embedded = model.get_input_embeddings()(IDS.to(model.device)).detach().requires_grad_()
        model.train()(inputs_embeds=embedded).logits.square().sum().backward()
        return embedded.grad

    before = gradient()
    with torch.no_grad():
        model.eval()(IDS.to(model.device))
    assert torch.equal(gradient(), before)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_quantized_base_computes_on_this_device_nearly_as_the_base_does(bases, kind):
    """QLoRA without a GPU: GPT-2's Conv1D becomes a 4-bit layer too."""
    folder = bases / kind / "base"
    plain = models.load_base(load_pinned(folder), torch.float32, base=folder)
    quantized = models.load_base(load_pinned(folder), torch.float32, quantized=True, base=folder)
    kinds = {type(module).__name__ for module in quantized.modules()}
    assert "Linear4bit" in kinds
    expected, got = (model(IDS.to(model.device)).logits.float() for model in (plain, quantized))
    assert 0 < (got - expected).norm() / expected.norm() < 0.3


def test_a_base_without_its_weights_is_refused(bases, tmp_path):
    folder = shutil.copytree(bases / "llama/model", tmp_path / "model")
    pinned = pin(folder, tmp_path / "base")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing. Run"):
        models.load_base(pinned, torch.float32, base=tmp_path / "base")


def adapter(pinned, base_folder, out):
    """An adapter as training leaves it, which changes the logits."""
    from peft import LoraConfig, get_peft_model

    model = models.load_base(pinned, torch.float32, base=base_folder)
    tuned = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    tuned.save_pretrained(out)
    models.save_origin(pinned, "lora", out)
    return tuned.eval()


def test_an_adapter_comes_back_on_its_base(bases, tmp_path):
    folder = bases / "llama/base"
    pinned = load_pinned(folder)
    tuned = adapter(pinned, folder, tmp_path / "adapter")
    again = models.load_tuned(pinned, tmp_path / "adapter", torch.float32, base=folder)
    torch.testing.assert_close(again(IDS.to(again.device)).logits, tuned(IDS.to(tuned.device)).logits)
    plain = models.load_base(pinned, torch.float32, base=folder)
    assert (again(IDS.to(again.device)).logits - plain(IDS.to(plain.device)).logits).abs().max() > 1e-3


def test_an_adapter_of_another_base_of_the_same_shapes_is_refused(bases, tmp_path):
    """peft takes it without a word (#1932)."""
    pinned = load_pinned(bases / "llama/base")
    adapter(pinned, bases / "llama/base", tmp_path / "adapter")
    other = shutil.copytree(bases / "llama/model", tmp_path / "model")
    tiny.tiny_llama(seed=1).save_pretrained(other)
    repinned = pin(other, tmp_path / "base")
    with pytest.raises(UserError, match=r"was trained on another base .* Run `dvc repro train`"):
        models.load_tuned(repinned, tmp_path / "adapter", torch.float32, base=tmp_path / "base")


def test_a_missing_adapter_names_the_stage_that_makes_it(bases, tmp_path):
    folder = bases / "llama/base"
    with pytest.raises(UserError, match=r"retune\.json is missing\. Run `dvc repro train` first"):
        models.load_tuned(load_pinned(folder), tmp_path / "none", torch.float32, base=folder)


def test_fully_tuned_weights_stand_for_themselves(bases, tmp_path):
    folder = bases / "llama/base"
    pinned = load_pinned(folder)
    tuned = tiny.tiny_llama(seed=2)
    tuned.save_pretrained(tmp_path / "adapter")
    models.save_origin(pinned, "full", tmp_path / "adapter")
    again = models.load_tuned(pinned, tmp_path / "adapter", torch.float32, base=folder)
    torch.testing.assert_close(again(IDS.to(again.device)).logits.cpu(), tuned(IDS).logits)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"half")])
def test_an_adapter_that_is_not_whole_is_refused_and_never_looked_for_on_the_hub(bases, tmp_path, name, damage):
    folder = bases / "llama/base"
    pinned = load_pinned(folder)
    adapter(pinned, folder, tmp_path / "adapter")
    damage(tmp_path / "adapter" / name)
    with pytest.raises(UserError, match=rf"{name} is (missing|not the file that train recorded).*dvc repro -f train"):
        models.load_tuned(pinned, tmp_path / "adapter", torch.float32, base=folder)


def renamed(weights):
    """As torch.compile leaves them."""
    return {f"_orig_mod.{name}": value for name, value in weights.items()}


def narrowed(weights):
    return {name: value[..., :8].contiguous() for name, value in weights.items()}


@pytest.mark.parametrize(
    ("change", "sentence"), [(renamed, "weights that LlamaForCausalLM needs are not in"), (narrowed, "other shapes")]
)
def test_weights_that_do_not_fit_are_refused_not_filled_up_with_random_numbers(bases, tmp_path, change, sentence):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(bases / "llama/model", tmp_path / "model")
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    pinned = pin(folder, tmp_path / "base")
    with pytest.raises(UserError, match=sentence):
        models.load_base(pinned, torch.float32, base=tmp_path / "base")


def test_the_tokenizer_is_shipped_with_the_template_that_the_model_was_tuned_on(bases, tmp_path):
    template = "{% for message in messages %}<{{ message.content }}>{% endfor %}"
    models.save_tokenizer(bases / "llama/base", template, tmp_path)
    tokenizer = models.load_tokenizer(tmp_path)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False) == "<Hello>"


def test_a_hub_model_that_left_the_cache_is_named(bases, tmp_path, monkeypatch):
    import dataclasses

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    pinned = dataclasses.replace(
        load_pinned(bases / "llama/base"), name="acme/tiny", revision="ab" * 20, weights_in="hub"
    )
    with pytest.raises(UserError, match=r"acme/tiny at abababababab is no longer in the hub cache\. Run `dvc repro -f"):
        models.weights_folder(pinned)
