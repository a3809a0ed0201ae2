"""What happens between the steps of training: progress, the live curve, checkpoints to trust, a stop in time."""

import csv
import math
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate.utils import gather
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.lib import checkpoints, launch
from stages.lib.errors import UserError

SECONDS_BETWEEN_LINES = 60  # in a log, which has no bar


class Stopped(Exception):
    """SIGTERM or SIGINT (Ctrl-C) was received, and the state of training is saved."""

    def __init__(self, signal_received: signal.Signals) -> None:
        super().__init__(signal_received.name)
        self.signal = signal_received


class SafeCheckpoints(TrainerCallback):
    """Mark each checkpoint when it is whole; on SIGTERM or Ctrl-C save one more and stop. A second stops at once.

    Of several processes all stop after the same step, whenever each got the signal.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number, handler in self._former.items():
            if handler != signal.SIG_IGN:  # as a shell's background jobs inherit SIGINT
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()
        if not launch.is_worker():
            os.write(2, b"\ntrain: saving after this step; the next signal stops at once\n")

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Name the best checkpoint where it lies now: a resumed state has the path of when it was saved."""
        if state.best_global_step:
            state.best_model_checkpoint = str(checkpoints.named(Path(str(args.output_dir)), state.best_global_step))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Ask for a checkpoint after the step in which the signal came."""
        if self._received_by_any(args):
            control.should_save = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint that was just written, by all processes, and drop what it replaces."""
        everyone = args.distributed_state
        everyone.wait_for_everyone()
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir))
            checkpoints.mark_complete(checkpoints.named(folder, state.global_step))
            checkpoints.drop_older(folder, state.best_model_checkpoint)
        everyone.wait_for_everyone()  # the first to leave would have the others ended
        if received := self._received_by_any(args):
            raise Stopped(received)

    def _received_by_any(self, args: TrainingArguments) -> signal.Signals | None:
        """The signal that this or another process got. One that comes while they ask counts the next time."""
        if args.world_size == 1:
            return self.received
        number = int(gather(torch.tensor([self.received or 0], device=args.device)).max())
        return signal.Signals(number) if number else None

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """From here on a signal ends the stage."""
        self._restore()


class SeveralProcesses(TrainerCallback):
    """What Trainer leaves undone where several processes train."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Let chance (dropout) fall differently in each process; all were given the same seed."""
        torch.manual_seed(args.seed + args.process_index)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **passed: Any
    ) -> None:
        """Set the order of the epoch, before Trainer hides the sampler behind the batches that a resumed run skips."""
        passed["train_dataloader"].set_epoch(int(state.epoch or 0))


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
    """A bar with loss, speed and time left, and one line for each judgement; in a log a line a minute for the bar."""

    def __init__(self, tokens_per_epoch: int, steps_per_epoch: float) -> None:
        self.tokens_per_step = tokens_per_epoch / steps_per_epoch
        self.bar: tqdm | None = None
        self.loss = float("nan")
        self.first_step = 0
        self.start = 0.0
        self.said = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar where training (re)starts."""
        self.first_step, self.start = state.global_step, time.perf_counter()
        self.said = self.start
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", disable=None)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **passed: Any) -> None:
        """Take the loss of the step, which comes after the step's end, and show it."""
        self.loss = passed["logs"].get("loss", self.loss)
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {self.loss:.3f}, {self.speed(state.global_step):.0f} tokens/s")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        if self.bar is None:
            return
        if self.bar.disable:
            if time.perf_counter() - self.said >= SECONDS_BETWEEN_LINES and math.isfinite(self.loss):
                self._say(f"{self._place(state)} · {self._left(state)} left")
            return
        self.bar.update(state.global_step - self.bar.n)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **passed: Any) -> None:
        """Say how the model does on the validation split."""
        self._say(f"{self._place(state)} · validation loss {passed['metrics']['eval_loss']:.4f}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def _say(self, words: str) -> None:
        tqdm.write(f"train: {words}")
        sys.stdout.flush()  # into a file Python writes 8 KiB at a time: hours of lines
        self.said = time.perf_counter()

    def _place(self, state: TrainerState) -> str:
        speed = self.speed(state.global_step)
        return f"step {state.global_step} of {state.max_steps} · loss {self.loss:.4f} · {speed:.0f} tokens/s"

    def _left(self, state: TrainerState) -> str:
        """Time until the last step, as the bar of a terminal writes it."""
        done = state.global_step - self.first_step
        seconds = (time.perf_counter() - self.start) / done * (state.max_steps - state.global_step)
        return str(tqdm.format_interval(seconds))

    def speed(self, step: int) -> float:
        """Real tokens a second since training (re)started, judgements included; 0 where it had ended before."""
        if self.bar is None:
            return 0.0
        return (step - self.first_step) * self.tokens_per_step / max(time.perf_counter() - self.start, 1e-9)


class LiveCurve(TrainerCallback):
    """The curve while it grows, a row a step, for whoever looks on; what is kept is written at the end."""

    COLUMNS = ("step", "loss", "lr", "grad_norm", "eval_loss", "tokens_per_second", "seconds")

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path = path
        self.progress = progress
        self.row: dict[str, Any] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep the rows up to the step from which training goes on, and no others."""
        if not state.is_world_process_zero:
            return
        kept = self._rows() if state.global_step else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in kept if int(row["step"]) <= state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **passed: Any) -> None:
        """Take the figures of the step, and of its judgement."""
        names = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm", "eval_loss": "eval_loss"}
        self.row |= {name: passed["logs"][key] for key, name in names.items() if key in passed["logs"]}
        if self.row:
            speed = round(self.progress.speed(state.global_step), 1)
            seconds = round(time.perf_counter() - self.progress.start, 3)
            self.row |= {"step": state.global_step, "tokens_per_second": speed, "seconds": seconds}

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the row of the step before; so at a checkpoint, after which training may go on, and at the end."""
        if self.row and state.is_world_process_zero:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.COLUMNS, lineterminator="\n").writerow(self.row)
        self.row = {}

    on_save = on_train_end = on_step_begin

    def _rows(self) -> list[dict[str, str]]:
        """What an earlier run left, without a last row that was cut."""
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                lines = [line for line in file if line.endswith("\n")]
        except OSError:
            return []
        rows = csv.DictReader(lines)
        return list(rows) if tuple(rows.fieldnames or ()) == self.COLUMNS else []


def curve(history: Iterable[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The log entries that hold `key`, in order."""
    return [entry for entry in history if key in entry]
