"""TRL's SFTTrainer over rows that are packed already, with an exact loss on every device."""

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset, concatenate_datasets
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback
from trl import SFTTrainer

from stages.lib import attention, checkpoints, fitting, passthrough
from stages.lib.fitting import Fit
from stages.lib.labels import IGNORED
from stages.lib.logits import logits_at
from stages.lib.prefixes import Document, lay_out


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
    """Pad packed rows to the longest of the batch, or to a width that never changes.

    Positions restart at 0 in every document. Padding is a document of its own, without trained tokens. No attention
    mask is made: a mask of ones would let documents see each other.
    """

    def __init__(self, pad_id: int, width: int | None = None) -> None:
        self.pad_id = pad_id
        self.width = width

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Batch rows of `input_ids`, `labels`, `seq_lengths` and `weights`."""
        width = self.width or max(len(row["input_ids"]) for row in rows)
        names = ("input_ids", "labels", "position_ids", "weights", "documents")
        batch: dict[str, list[Any]] = {name: [] for name in names}
        for row in rows:
            missing = width - len(row["input_ids"])
            lengths, weights = list(row["seq_lengths"]), list(row["weights"])
            if missing:
                lengths.append(missing)
                weights.append(0.0)
            batch["input_ids"].append([*row["input_ids"], *[self.pad_id] * missing])
            batch["labels"].append([*row["labels"], *[IGNORED] * missing])
            batch["position_ids"].append([position for length in lengths for position in range(length)])
            batch["weights"].append(np.repeat(weights, lengths).tolist())
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
        self.remove_callback(PrinterCallback)
        # Deterministic algorithms fill new memory, to show up whoever reads what was never written: 5 % of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it is a property

    def _get_dataloader(self, dataset: Dataset, *passed: Any, **named: Any) -> Any:
        return super()._get_dataloader(with_filler(dataset) if self.args.world_size > 1 else dataset, *passed, **named)

    def get_train_dataloader(self) -> Any:
        """The batches of an epoch."""
        with passthrough.refusals("a setting of the dataloader in train.more"):
            return super().get_train_dataloader()

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
        checkpoints.named(Path(str(self.args.output_dir)), self.state.global_step).mkdir(parents=True, exist_ok=True)
        super()._save_checkpoint(model, trial)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer that the arguments name; with other rates for A and B it is peft that sorts the weights."""
        with passthrough.refusals("train.optimizer, or a setting of it in train.more,"):
            if self.rate_of_b != 1 and self.optimizer is None:
                from peft.optimizers import create_loraplus_optimizer

                tuned: Any = model or self.model
                kind, settings = self.get_optimizer_cls_and_kwargs(self.args, tuned)
                settings |= {"loraplus_lr_ratio": self.rate_of_b, "loraplus_weight_decay": self.args.weight_decay}
                self.optimizer = create_loraplus_optimizer(tuned, kind, **settings)
            return super().create_optimizer(model)

    def create_scheduler(self, *passed: Any, **named: Any) -> Any:
        """The schedule that the arguments name."""
        with passthrough.refusals("train.scheduler, or a setting of it in train.more,"):
            return super().create_scheduler(*passed, **named)

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
        is_compiled = self.args.torch_compile
        if inputs["input_ids"].device.type != "cpu" and is_plain and not is_compiled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs.pop("labels")[:, 1:]
        wanted = torch.nn.functional.pad(targets != IGNORED, (0, 1))  # the last position has nothing to foresee
        with self.accelerator.autocast():
            if is_compiled:  # for a hook each step would be compiled anew
                logits = model(**inputs, use_cache=False).logits[wanted]
            else:
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
