"""The estimate counts what a model of this shape takes, and what is free is what the container allows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.lib import adapter_rules, memory
from tests import tiny

TRAINED = [10, 40, 20, 30]


def demand(model: Any = None, **settings: Any) -> memory.Demand:
    from peft import LoraConfig

    lora = LoraConfig(
        r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=settings.pop("dropout", 0.0)
    )
    usual: dict[str, Any] = {
        "method": "lora",
        "compute": torch.float32,
        "optimizer": "adamw_torch_fused",
        "device": "cpu",
        "length": 64,
        "trained": TRAINED,
        "document": 16.0,
    }
    settings = usual | settings
    drawing = memory.drawing((model or tiny.tiny_llama()).config)
    if settings["method"] == "full":
        return memory.demand(drawing, None, **settings)
    drawing = adapter_rules.drawn(drawing, lora, more=(), quantized=settings["method"] == "qlora", in_shares=False)
    return memory.demand(drawing, lora, **settings)


@pytest.mark.parametrize("make", [tiny.tiny_llama, tiny.tiny_gpt2, tiny.tiny_qwen2, tiny.tiny_bloom, tiny.tiny_lfm2])
def test_weights_and_optimizer_of_full_tuning_are_counted_to_the_byte(make: Any) -> None:
    model = make()
    weights = sum(weight.numel() for weight in model.parameters())

    found = demand(model, method="full")

    assert found.weights == 4 * weights
    assert found.optimizer == (4 + 8) * weights  # gradient, two moments
    assert demand(model, method="full", optimizer="adamw_8bit").optimizer == (4 + 2) * weights


def test_a_frozen_base_takes_what_its_type_takes_and_only_the_adapter_has_gradients() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny.tiny_llama()
    weights = model.num_parameters()
    adapter = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear")).get_nb_trainable_parameters()[0]

    sixteen, thirty_two = (demand(compute=kind) for kind in (torch.bfloat16, torch.float32))

    assert sixteen.weights == 2 * weights + 4 * adapter
    assert thirty_two.weights == 4 * weights + 4 * adapter
    assert sixteen.optimizer == 12 * adapter
    assert demand(method="qlora").weights < thirty_two.weights


@pytest.mark.parametrize("make", [tiny.tiny_llama, tiny.tiny_qwen2, tiny.tiny_gpt2])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_activations_are_those_that_autograd_keeps(make: Any, method: str) -> None:
    """Counted by autograd's own hooks, on a model wide enough that small things are small."""
    from peft import LoraConfig, get_peft_model

    from stages.lib import attention, low_rank
    from stages.lib.prefixes import Segment

    model = make().train(False)
    config = model.config
    wide = {"hidden_size": 256, "intermediate_size": 640, "n_embd": 256, "initializer_range": 0.02}
    for key, value in wide.items():
        if hasattr(config, key):
            setattr(config, key, value)
    config.head_dim = 64
    model = type(model)(config).eval()
    estimate = demand(model, method=method, length=512, document=64.0)
    attention.prepare(model, packs=True, compute=torch.float32)
    model.train()
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear")) if method == "lora" else model
    low_rank.speed_up(tuned)
    own = {weight.untyped_storage().data_ptr() for weight in tuned.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        body = tuned.base_model.model.base_model if method == "lora" else tuned.base_model
        body(
            input_ids=torch.randint(0, 400, (1, 512)),
            position_ids=torch.arange(64).repeat(8)[None],
            use_cache=False,
            **attention.boundaries(model, [Segment(64)] * 8 if attention.lays_out(model) else [[64] * 8], model.device),
        )

    seen = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    counted = 512 * estimate.layers * estimate.token
    assert 0.8 < counted / seen < 1.25


def test_a_model_whose_layers_differ_in_width_is_taken_for_its_widest() -> None:
    """Gemma 3n names a width for each layer."""
    model = tiny.tiny_llama()
    config = SimpleNamespace(**model.config.to_dict() | {"intermediate_size": [32, 64]})

    kept = [memory._kept_of_a_token(model, one, None, 4, 16.0) for one in (config, model.config)]

    assert kept[0] == kept[1]


def test_the_heaviest_rows_make_the_logits() -> None:
    found = demand()

    assert found.at(2, checkpointing=False).logits == (40 + 30) * 12 * tiny.VOCABULARY
    assert demand(device="cuda").at(2, checkpointing=False).logits == 0  # TRL's kernel makes tiles of them
    assert (
        demand(device="cuda", tiles=False).at(2, checkpointing=False).logits == found.at(2, checkpointing=False).logits
    )


def test_checkpointing_takes_less_and_dropout_in_the_adapter_takes_more() -> None:
    plain = demand().at(4, checkpointing=False)

    assert demand().at(4, checkpointing=True).activations < plain.activations
    assert demand(dropout=0.1).at(4, checkpointing=False).activations > plain.activations
    assert demand().at(8, checkpointing=False).activations == 2 * plain.activations


def test_the_estimate_uses_up_no_random_number() -> None:
    model = tiny.tiny_llama()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    demand(model)

    assert torch.equal(torch.rand(3), expected)


def test_the_estimate_reads_as_one_line() -> None:
    estimate = memory.Estimate(*(size * memory.GIB for size in (0.5, 0.1, 0.9, 0.4, 0.1)))

    assert str(estimate) == "about 2.0 GiB (0.5 weights, 0.1 optimizer, 0.9 activations, 0.4 logits, 0.1 other)"
    assert str(memory.Estimate(1, 1, 1, 1, 1)) == "less than 0.1 GiB"


def group(folder: Path, names: tuple[str, str], limit: str, used: int, stat: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{stat}\n")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


@pytest.mark.parametrize(
    ("membership", "place", "names", "stat"),
    [
        ("4:memory:/box\n3:cpu:/box\n0::/\n", "memory/box", V1, "total_inactive_file 50"),
        ("0::/box/inner\n", "box", V2, "inactive_file 50"),  # the limit is that of an ancestor
        ("0::/../../host/path\n", ".", V2, "inactive_file 50"),  # the path on the host, from within a container
        ("4:memory,hugetlb:/elsewhere\n", "memory", V1, "total_inactive_file 50"),
    ],
)
def test_a_containers_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, place: str, names: tuple[str, str], stat: str
) -> None:
    (tmp_path / "membership").write_text(membership)
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    group(tmp_path / place, names, "1000", 300, stat)

    assert memory.available(torch.device("cpu")) == 1000 - 300 + 50  # pages of files can be dropped


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "membership").write_text("0::/box\n")
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    group(tmp_path / "box", V2, "max", 300, "inactive_file 50")

    assert memory.available(torch.device("cpu")) > memory.GIB / 100
