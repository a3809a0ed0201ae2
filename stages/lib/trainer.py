"""TRL's SFTTrainer over rows that are packed already, with an exact loss on every device and checkpoints to trust."""

import math
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from stages.lib import attention, checkpoints
from stages.lib.errors import UserError
from stages.lib.logits import logits_at

IGNORED = -100  # label of a token that is not trained


class Stopped(Exception):
    """SIGTERM or SIGINT (Ctrl-C) was received, and the state of training is saved."""

    def __init__(self, signal_received: signal.Signals) -> None:
        super().__init__(signal_received.name)
        self.signal = signal_received


class PackedCollator:
    """Pad packed rows to the longest of the batch.

    Positions restart at 0 in every document. Padding is a document of its own, without trained tokens. No attention
    mask is made: a mask of ones would let documents see each other.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Batch rows of `input_ids`, `labels` and `seq_lengths`."""
        width = max(len(row["input_ids"]) for row in rows)
        batch: dict[str, list[Any]] = {"input_ids": [], "labels": [], "position_ids": [], "document_lengths": []}
        for row in rows:
            missing = width - len(row["input_ids"])
            lengths = [*row["seq_lengths"], *([missing] if missing else [])]
            batch["input_ids"].append([*row["input_ids"], *[self.pad_id] * missing])
            batch["labels"].append([*row["labels"], *[IGNORED] * missing])
            batch["position_ids"].append([position for length in lengths for position in range(length)])
            batch["document_lengths"].append(lengths)
        lengths = batch.pop("document_lengths")
        return {name: torch.tensor(values) for name, values in batch.items()} | {"document_lengths": lengths}


class PackedTrainer(SFTTrainer):
    """SFTTrainer whose validation loss is exact, and which projects only trained positions on a CPU too."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Nats summed over trained tokens, divided by their number in the whole optimizer step.

        TRL scores only trained positions where its Triton kernel runs, and every position elsewhere. On a CPU, where
        the head of a small model is a fifth of the work, the hidden states of trained positions are picked first.
        """
        plain = self.accelerator.unwrap_model(model)
        if not attention.is_packed(plain):
            inputs.pop("document_lengths")  # transformers finds the documents by their positions
        if inputs["input_ids"].device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs.pop("labels")[:, 1:]
        wanted = torch.nn.functional.pad(targets != IGNORED, (0, 1))  # the last position has nothing to foresee
        with self.accelerator.autocast():
            logits = logits_at(plain, wanted, **inputs)
        nats = cross_entropy(logits.float(), targets[targets != IGNORED], reduction="sum")
        return nats / (wanted.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Loss over the validation split: nats over trained tokens, whatever the batch size.

        Trainer's own mean of batch means moves with the batch size (transformers #39241).
        """
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        nats = torch.zeros((), dtype=torch.float64)
        tokens = 0
        for batch in self.get_eval_dataloader():
            inputs = self._prepare_inputs(batch)
            tokens += int((inputs["labels"][:, 1:] != IGNORED).sum())
            with torch.no_grad():
                nats += self.compute_loss(model, inputs, num_items_in_batch=1).double().cpu()
        metrics = {f"{metric_key_prefix}_loss": float(nats) / tokens}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class SafeCheckpoints(TrainerCallback):
    """Mark each checkpoint when it is whole; on SIGTERM or Ctrl-C save one more and stop. A second stops at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number, handler in self._former.items():
            if handler != signal.SIG_IGN:  # as a shell's background jobs inherit SIGINT
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()
        os.write(2, b"\ntrain: saving after this step; the next signal stops at once\n")

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Ask for a checkpoint after the step in which the signal came."""
        if self.received:
            control.should_save = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint that was just written."""
        checkpoints.mark_complete(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")
        if self.received:
            raise Stopped(self.received)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """From here on a signal ends the stage."""
        self._restore()


class Divergence(TrainerCallback):
    """Stop a run whose loss is no number any more: what follows would be lost time."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **passed: Any) -> None:
        """Look at the figures of the step or of the judgement."""
        logs = passed["logs"]
        # In fp16 a gradient that overflows is skipped, and the scale lowered: no reason to stop.
        watched = ("loss", "eval_loss") if args.fp16 else ("loss", "eval_loss", "grad_norm")
        for name in watched:
            if not math.isfinite(logs.get(name, 0.0)):
                raise UserError(
                    f"training diverged: {name} is {logs[name]} at step {state.global_step}. Lower train.lr or "
                    "train.max_grad_norm in params.yaml, or raise train.warmup; instead of fp16 try bf16 or fp32."
                )


class Progress(TrainerCallback):
    """A bar with loss, speed and time left, and one line for each judgement."""

    def __init__(self, tokens_per_epoch: int, steps_per_epoch: float) -> None:
        self.tokens_per_step = tokens_per_epoch / steps_per_epoch
        self.bar: tqdm | None = None
        self.loss = float("nan")
        self.first_step = 0
        self.start = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar where training (re)starts."""
        self.first_step, self.start = state.global_step, time.perf_counter()
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", disable=None)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **passed: Any) -> None:
        """Take the loss of the step."""
        self.loss = passed["logs"].get("loss", self.loss)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
            self.bar.set_postfix_str(f"loss {self.loss:.3f}, {self.speed(state.global_step):.0f} tokens/s")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **passed: Any) -> None:
        """Say how the model does on the validation split."""
        tqdm.write(
            f"train: step {state.global_step} of {state.max_steps} · loss {self.loss:.4f} · "
            f"validation loss {passed['metrics']['eval_loss']:.4f}"
        )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def speed(self, step: int) -> float:
        """Real tokens a second since training (re)started, judgements included; 0 where it had ended before."""
        if self.bar is None:
            return 0.0
        return (step - self.first_step) * self.tokens_per_step / max(time.perf_counter() - self.start, 1e-9)


def curve(history: Iterable[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The log entries that hold `key`, in order."""
    return [entry for entry in history if key in entry]
