"""What training minimises is what a trainer written out in forty lines minimises."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from stages import tokenize as tokenize_stage
from stages.lib import artifacts, attention, models, prompts
from stages.lib.pinned import load_pinned
from tests import workspace

STEPS, RATE = 3, 0.5
Conversation = list[tuple[str, bool]]  # its parts, and whether each is trained

CONVERSATIONS: list[Conversation] = [
    [("<|im_start|>user\nName a number<|im_end|>\n<|im_start|>assistant\n", False), ("7<|im_end|>", True)],
    [
        ("<|im_start|>user\nCount<|im_end|>\n<|im_start|>assistant\n", False),
        ("1 2 3<|im_end|>", True),
        ("\n<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n", False),
        ("4 5 6 7 8 9<|im_end|>", True),
        ("\n<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n", False),
        ("Gladly<|im_end|>", True),
    ],
    [("<|im_start|>user\nSay nothing<|im_end|>\n<|im_start|>assistant\n", False), ("<|im_end|>", True)],
    [("<|im_start|>user\nName a number<|im_end|>\n<|im_start|>assistant\n", False), ("8 8 8 8<|im_end|>", True)],
    [("Once upon a time there was no prompt<|im_end|>", True)],
]


def reference(base: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """One conversation at a time, without packing, padding, accumulation or trainer: losses, and the final weights."""
    model = models.load_base(load_pinned(base), torch.float32, base=base)
    tokenizer: Any = models.load_tokenizer(base)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses = []
    for _ in range(STEPS):
        nats, tokens = torch.zeros(()), 0
        for conversation in CONVERSATIONS:
            ids: list[int] = []
            is_trained: list[bool] = []
            for text, trained in conversation:
                new = tokenizer(text, add_special_tokens=False)["input_ids"]
                ids += new
                is_trained += [trained] * len(new)
            log_probabilities = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            for place in range(1, len(ids)):
                if is_trained[place]:
                    nats = nats - log_probabilities[place - 1, ids[place]]
                    tokens += 1
        loss = nats / tokens
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with these conversations."""
    root = workspace.make(tmp_path_factory.mktemp("loss"), validation=0)
    keys = ("text", "trained", "literal")
    row = {"category": "c", "group": "g", "prompt": "", "reference": "", "weight": 1.0}
    rows = [
        row | {"id": str(number), "segments": [dict(zip(keys, (*part, False), strict=True)) for part in conversation]}
        for number, conversation in enumerate(CONVERSATIONS)
    ]
    artifacts.write_parquet(root / "data/prompts/train.parquet", pa.Table.from_pylist(rows, schema=prompts.SCHEMA))
    with artifacts.replacing(root / "data/packed") as out:
        settings = workspace.params("tokenize", max_length=96, pack=True)
        tokenize_stage.tokenize(root / "data/prompts", root / "models/base", out, settings, seed=7)
    return root


@pytest.mark.parametrize("pads", [False, True], ids=["laid out", "padded"])
@pytest.mark.parametrize("batch", [1, 2, 16])
def test_losses_and_weights_are_those_of_the_reference(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, pads: bool
) -> None:
    """Every assistant turn and the token that ends it are trained, prompts and padding never, all tokens alike."""
    if pads:
        monkeypatch.setattr(attention, "candidates", lambda *_: [])
    rows = artifacts.read_json(root / "data/packed/manifest.json", made_by="tokenize")["splits"]["train"]["rows"]
    assert 2 <= rows < len(CONVERSATIONS)  # some share a row, and there is something to accumulate and to pad
    losses, weights = reference(root / "models/base")

    plain = {"optimizer": "sgd", "scheduler": "constant", "warmup": 0.0, "weight_decay": 0.0, "max_grad_norm": 1e9}
    cut = {"batch_size": batch, "accumulation": math.ceil(rows / batch), "epochs": STEPS, "max_steps": None}
    tuned = workspace.tune(root, tmp_path / "tuned", method="full", precision="fp32", lr=RATE, **plain, **cut)

    assert [one["loss"] for one in tuned.train_loss] == pytest.approx(losses, abs=1e-5)
    assert losses[-1] < losses[0] - 0.01
    for name, weight in load_file(tmp_path / "tuned/model.safetensors").items():
        torch.testing.assert_close(weight, weights[name], atol=1e-5, rtol=0)
