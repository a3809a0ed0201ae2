"""TRL's SFTTrainer over rows that are packed already, with an exact loss on every device and checkpoints to trust."""

import csv
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import SeedableRandomSampler
from accelerate.utils import gather
from datasets import Dataset, concatenate_datasets
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler, SequentialSampler
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from stages.lib import attention, checkpoints, fitting, launch
from stages.lib.errors import UserError
from stages.lib.fitting import Fit
from stages.lib.logits import logits_at
from stages.lib.prefixes import Document, lay_out

IGNORED = -100  # label of a token that is not trained
SECONDS_BETWEEN_LINES = 60  # in a log, which has no bar


class Stopped(Exception):
    """SIGTERM or SIGINT (Ctrl-C) was received, and the state of training is saved."""

    def __init__(self, signal_received: signal.Signals) -> None:
        super().__init__(signal_received.name)
        self.signal = signal_received


class LayoutCollator:
    """Lay out the documents of packed rows as one sequence, without padding, beginnings that they share only once."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Batch rows of `input_ids`, `labels`, `seq_lengths` and `weights`."""
        documents = []
        for row in rows:
            cuts = list(accumulate(row["seq_lengths"]))[:-1]
            ids, labels = (np.split(np.asarray(row[name]), cuts) for name in ("input_ids", "labels"))
            documents += [Document(*one) for one in zip(ids, labels, row["weights"], strict=True)]
        layout = lay_out(documents)
        names = ("input_ids", "labels", "position_ids", "weights")
        return {name: torch.tensor([getattr(layout, name)]) for name in names} | {"documents": layout.segments}


class PackedCollator:
    """Pad packed rows to the longest of the batch.

    Positions restart at 0 in every document. Padding is a document of its own, without trained tokens. No attention
    mask is made: a mask of ones would let documents see each other.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Batch rows of `input_ids`, `labels`, `seq_lengths` and `weights`."""
        width = max(len(row["input_ids"]) for row in rows)
        names = ("input_ids", "labels", "position_ids", "weights", "documents")
        batch: dict[str, list[Any]] = {name: [] for name in names}
        for row in rows:
            missing = width - len(row["input_ids"])
            lengths = [*row["seq_lengths"], *([missing] if missing else [])]
            batch["input_ids"].append([*row["input_ids"], *[self.pad_id] * missing])
            batch["labels"].append([*row["labels"], *[IGNORED] * missing])
            batch["position_ids"].append([position for length in lengths for position in range(length)])
            weights = zip(lengths, [*row["weights"], 0.0], strict=False)
            batch["weights"].append([weight for length, weight in weights for _ in range(length)])
            batch["documents"].append(lengths)
        documents = batch.pop("documents")
        return {name: torch.tensor(values) for name, values in batch.items()} | {"documents": documents}


class WholeRounds(Sampler[int]):
    """Rows in the order of one process, then the filler row until each of several processes has equally many.

    accelerate deals batches out in turn. Left alone it evens their number with rows from the beginning, which would be
    trained twice.
    """

    def __init__(self, order: Sampler[int], filler: int, multiple: int) -> None:
        self.order = order
        self.filler = filler
        self.missing = -len(order) % multiple  # type: ignore[arg-type]  # both kinds of order have a length

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from [self.filler] * self.missing

    def __len__(self) -> int:
        return len(self.order) + self.missing  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for this epoch."""
        if isinstance(self.order, SeedableRandomSampler):
            self.order.set_epoch(epoch)


def with_filler(rows: Dataset) -> Dataset:
    """`rows` and one more, of which nothing is trained: a copy of the first without labels."""
    first = rows[:1]
    filler = first | {"labels": [[IGNORED] * len(first["labels"][0])]}
    return concatenate_datasets([rows, Dataset.from_dict(filler, features=rows.features)])


class PackedTrainer(SFTTrainer):
    """SFTTrainer whose validation loss is exact, and which projects only trained positions on a CPU too.

    With several processes each row is trained, and judged, exactly once an epoch, in the order of one process.
    """

    def _get_dataloader(self, dataset: Dataset, *passed: Any, **named: Any) -> Any:
        return super()._get_dataloader(with_filler(dataset) if self.args.world_size > 1 else dataset, *passed, **named)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        if self.args.world_size == 1 or train_dataset is None:
            return super()._get_train_sampler(train_dataset)
        rows = len(train_dataset) - 1
        return WholeRounds(SeedableRandomSampler(range(rows)), rows, self._train_batch_size * self.args.world_size)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Any:
        if self.args.world_size == 1:
            return super()._get_eval_sampler(eval_dataset)
        rows = len(eval_dataset) - 1
        return WholeRounds(SequentialSampler(range(rows)), rows, self.args.eval_batch_size * self.args.world_size)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Trainer takes the best checkpoint for lost when its folder is not there yet, as with the shards of FSDP.
        Path(str(self.args.output_dir), f"checkpoint-{self.state.global_step}").mkdir(parents=True, exist_ok=True)
        super()._save_checkpoint(model, trial)

    def __init__(self, *, weighted: bool = False, rate_of_b: float = 1.0, **settings: Any) -> None:
        """Prepare to train.

        Args:
            weighted: whether the loss of some training examples counts more or less than that of others.
            rate_of_b: LoRA+'s ratio of the rates of B and of A (arXiv:2402.12354).
            **settings: of SFTTrainer.
        """
        self.weighted = weighted
        self.rate_of_b = rate_of_b
        super().__init__(**settings)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer that the arguments name; with other rates for A and B it is peft that sorts the weights."""
        if self.rate_of_b != 1 and self.optimizer is None:
            from peft.optimizers import create_loraplus_optimizer

            tuned: Any = model or self.model
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, tuned)
            settings |= {"loraplus_lr_ratio": self.rate_of_b, "loraplus_weight_decay": self.args.weight_decay}
            self.optimizer = create_loraplus_optimizer(tuned, kind, **settings)
        return super().create_optimizer(model)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Nats summed over trained tokens, divided by their number in the whole optimizer step, of all processes.

        Where examples have weights both are weighted sums; a judgement counts every token alike.

        The mean of the gradients of several processes is taken later, so the sum is multiplied by their number here.

        TRL scores only trained positions where its Triton kernel runs, and every position elsewhere. On a CPU, where
        the head of a small model is a fifth of the work, the hidden states of trained positions are picked first.
        """
        plain = self.accelerator.unwrap_model(model)
        inputs |= attention.boundaries(plain, inputs.pop("documents"), inputs["input_ids"].device)
        weights = inputs.pop("weights")[:, 1:]
        is_plain = not (self.weighted or self.args.label_smoothing_factor)
        if inputs["input_ids"].device.type != "cpu" and is_plain:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs.pop("labels")[:, 1:]
        wanted = torch.nn.functional.pad(targets != IGNORED, (0, 1))  # the last position has nothing to foresee
        with self.accelerator.autocast():
            logits = logits_at(plain, wanted, through=model, **inputs)
        chosen = targets[targets != IGNORED]
        if is_plain or not model.training:
            nats = cross_entropy(logits.float(), chosen, reduction="sum")
        else:
            smoothing = self.args.label_smoothing_factor
            losses = cross_entropy(logits.float(), chosen, reduction="none", label_smoothing=smoothing)
            nats = (losses * weights[targets != IGNORED]).sum()
        if num_items_in_batch is None:
            return nats / wanted.sum().clamp(min=1)
        return nats / num_items_in_batch * self.accelerator.num_processes

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | int | None:
        """The trained tokens of a step, or their weights."""
        if not self.weighted:
            return super()._get_num_items_in_batch(batch_samples, device)
        counted = [batch["weights"][:, 1:][batch["labels"][:, 1:] != IGNORED].sum() for batch in batch_samples]
        return self.accelerator.gather(torch.stack(counted).sum().to(device)).sum()

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Loss over the validation split: nats over trained tokens, whatever the batch size.

        Trainer's own mean of batch means moves with the batch size (transformers #39241).
        """
        model: Any = self.model
        model.eval()
        processes = self.accelerator.num_processes
        nats = torch.zeros((), dtype=torch.float64)
        tokens = 0
        for batch in self.get_eval_dataloader():
            inputs = self._prepare_inputs(batch)
            tokens += int((inputs["labels"][:, 1:] != IGNORED).sum())
            with torch.no_grad():
                nats += self.compute_loss(model, inputs, num_items_in_batch=processes).double().cpu()
        ours = torch.tensor([[float(nats), tokens]], dtype=torch.float64, device=self.args.device)
        of_all = self.accelerator.gather(ours).sum(dim=0)  # not `reduce`: the sum is the same to the bit everywhere
        metrics = {f"{metric_key_prefix}_loss": float(of_all[0] / of_all[1])}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def find_batch(self, fit: Fit, longest: list[dict[str, Any]]) -> Fit:
        """Take as many rows at once as memory lets through a step of the longest, and as many a step as before."""
        model: Any = self.model
        learned = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
        moments = max(0, int(fit.estimate.optimizer) - learned)
        found = fitting.by_trial(fit, lambda size: self._attempt(longest[:size], moments))
        self.args.per_device_train_batch_size = self.args.per_device_eval_batch_size = found.batch_size
        self.args.gradient_accumulation_steps = found.accumulation
        self._train_batch_size = found.batch_size
        if found != fit:
            fitting.announce_batch(found)
        return found

    def _attempt(self, rows: list[dict[str, Any]], moments: int) -> None:
        """Forward and backward as in a step, with room for the optimizer's `moments` (bytes), and without a trace."""
        reserved = torch.empty(moments, dtype=torch.uint8, device=self.args.device)
        model: Any = self.model
        model.train()
        if self.args.gradient_checkpointing:
            model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        try:
            with torch.random.fork_rng():
                for _ in range(2):  # the gradients of the first lie there while the second is made
                    with self.accelerator.autocast():
                        loss = self.compute_loss(model, self._prepare_inputs(self.data_collator(rows)))
                    loss.backward()
        finally:
            model.zero_grad()
            self._metrics["train"].clear()
            del reserved


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

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Ask for a checkpoint after the step in which the signal came."""
        if self._received_by_any(args):
            control.should_save = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint that was just written, by all processes."""
        everyone = args.distributed_state
        everyone.wait_for_everyone()
        if state.is_world_process_zero:
            checkpoints.mark_complete(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")
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
    """The curve while it grows, a row a step, for whoever looks on; what is kept is written at the end.

    A row is written when all of its step is known: at the next step, at a checkpoint, or at the end.
    """

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
        """Write the row of the step before."""
        self._write(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the row: training may go on after this step."""
        self._write(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the last row."""
        self._write(state)

    def _write(self, state: TrainerState) -> None:
        if self.row and state.is_world_process_zero:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.COLUMNS, lineterminator="\n").writerow(self.row)
        self.row = {}

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
