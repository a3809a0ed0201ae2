"""Training is cut until it fits, and a step keeps its rows."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from stages.lib import artifacts, fitting, packed
from stages.lib.errors import UserError
from stages.lib.memory import GIB, Demand
from tests import workspace

ROOT = Path(__file__).resolve().parents[2]

# A row takes 1 GiB, or 0.3 with checkpointing; everything else together 1 GiB.
ROW = Demand(
    GIB, optimizer=0, other=0, slack=0, layers=9, token=GIB / 100, kept=GIB / 450, logit=0, length=10, trained=[]
)


def fit(
    free: float,
    batch_size: int = 8,
    accumulation: int = 2,
    checkpointing: bool | Literal["auto"] = "auto",
    search: bool = False,
) -> fitting.Fit:
    sizes = fitting.divisors(batch_size) if search else [batch_size]
    return fitting.choose(
        ROW,
        int(free * GIB),
        batch_size=batch_size,
        accumulation=accumulation,
        checkpointing=checkpointing,
        sizes=sizes,
    )


@pytest.mark.parametrize(
    ("free", "settings", "chosen"),
    [
        (20, {}, (8, 2, False)),  # it fits as it is
        (7, {}, (8, 2, True)),
        (7, {"checkpointing": False}, (8, 2, False)),  # asked for, and warned of
        (20, {"checkpointing": True}, (8, 2, True)),
        (7, {"search": True}, (4, 4, False)),  # smaller batches cost less than computing again
        (7, {"search": True, "batch_size": 3, "accumulation": 5}, (3, 5, False)),
        (4, {"search": True, "batch_size": 3, "accumulation": 5}, (1, 15, False)),  # never 2 × 7
        (5, {"search": True, "batch_size": 12, "accumulation": 1}, (3, 4, False)),
        (1.8, {"search": True}, (2, 8, True)),
        (0.1, {"search": True}, (1, 16, True)),  # nothing fits: what takes least
    ],
)
def test_the_fastest_way_that_fits_is_taken(
    free: float, settings: dict[str, Any], chosen: tuple[int, int, bool]
) -> None:
    found = fit(free, **settings)

    assert (found.batch_size, found.accumulation, found.checkpointing) == chosen


@pytest.mark.parametrize("batch_size", range(1, 40))
def test_however_it_is_cut_a_step_has_as_many_rows(batch_size: int) -> None:
    whole = fit(100, batch_size=batch_size, accumulation=5)

    for size in fitting.divisors(batch_size):
        cut = whole.with_batch(size)
        assert cut.batch_size * cut.accumulation == 5 * batch_size


def test_a_batch_is_tried_and_made_smaller_until_it_goes() -> None:
    tried = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    found = fitting.by_trial(fit(100, batch_size=12, accumulation=1), attempt)

    assert tried == [12, 6, 4, 3]
    assert (found.batch_size, found.accumulation) == (3, 4)


def test_where_not_even_one_row_goes_it_says_what_to_lower() -> None:
    def attempt(size: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    whole = fit(100)
    with (
        pytest.raises(UserError, match=r"out of memory with batches of 8 × 10 tokens.*a single row at a time"),
        fitting.memory_errors_in_words(whole, "full"),
    ):
        fitting.by_trial(whole, attempt)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to …"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
    ],
)
def test_running_out_is_answered_with_numbers_and_knobs(error: Exception) -> None:
    with pytest.raises(UserError) as caught, fitting.memory_errors_in_words(fit(7), "lora"):
        raise error

    said = str(caught.value)
    assert "batches of 8 × 10 tokens: by the estimate about 3.4 GiB (1.0 weights, 0.0 optimizer, 2.4 act" in said
    assert "7.0 GiB were free at the start. Lower train.batch_size and raise train.accumulation" in said
    assert "train.method qlora" in said
    assert "gradient_checkpointing" not in said  # it is on


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), fitting.memory_errors_in_words(fit(7), "lora"):
        raise RuntimeError("shapes cannot be multiplied")


def test_what_will_not_fit_is_said_before(capsys: pytest.CaptureFixture[str]) -> None:
    tight = fit(3, batch_size=1, checkpointing=False)
    fitting.warn_if_tight(fit(20), "lora")
    assert capsys.readouterr().err == ""

    fitting.warn_if_tight(fit(2, batch_size=1, checkpointing=False), "qlora")
    fitting.announce(tight, batch_size=1, checkpointing=False)

    said = capsys.readouterr()
    assert "with batches of 1 × 10 tokens it takes about 2.0 GiB" in said.err
    assert "only 2.0 GiB are free. Set train.gradient_checkpointing to true, lower tokenize.max_length" in said.err
    assert "train.method" not in said.err  # qlora is the last of them
    assert said.out.startswith("train: about 2.0 GiB (1.0 weights, ")
    assert said.out.endswith("of 3.0 GiB free\n")


def test_it_says_why_checkpointing_is_on(capsys: pytest.CaptureFixture[str]) -> None:
    fitting.announce(fit(7), batch_size=8, checkpointing="auto")

    assert "gradient checkpointing is on: without it memory would not suffice" in capsys.readouterr().out


def test_the_plan_knows_of_shares_of_compiling_and_of_what_keeps_the_kernel_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = workspace.make(tmp_path / "w")
    manifest = artifacts.read_json(root / "data/packed/manifest.json", made_by="tokenize")
    rows = packed.read(root / "data/packed", manifest, "train")
    assert rows is not None

    def planned(width: int | None = None, **settings: Any) -> Demand:
        params = workspace.params("train", method="full", batch_size=1, **settings)
        return fitting.plan(root / "models/base", rows, width, None, tmp_path, params, torch.float32).demand

    plain = planned()
    shared = planned(launch={"processes": 8, "config": str(ROOT / "configs/fsdp2-8.yaml")})
    copied = planned(launch={"processes": 8, "config": str(ROOT / "configs/ddp-8.yaml")})
    assert (shared.weights, shared.optimizer) == (plain.weights / 8, plain.optimizer / 8)
    assert (copied.weights, copied.optimizer) == (plain.weights, plain.optimizer)
    assert (plain.length, max(plain.trained)) == (rows.lengths.max(), rows.trained.max())
    compiled = planned(width=96)
    assert (compiled.length, set(compiled.trained)) == (96, {96})  # logits at every position

    monkeypatch.setattr(fitting.models, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(fitting.memory, "available", lambda device: 8 * GIB)
    assert planned().logit == 0  # TRL's kernel makes tiles of them
    assert planned(width=96).logit == planned(label_smoothing=0.1).logit == plain.logit
