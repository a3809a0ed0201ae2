"""Tune the base on packed rows: LoRA, QLoRA or every weight, with TRL's SFTTrainer.

Reads   data/packed/ (Arrow rows, manifest.json, template.json), models/base/
Writes  models/adapter/ (the adapter, or the full weights, with tokenizer and chat template),
        reports/train.json, reports/train_loss.csv, reports/eval_loss.csv
"""

import csv
import io
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lib import artifacts, checkpoints, experiments, runtime
from stages.lib.errors import UserError, run, warn
from stages.lib.params import load, load_seed
from stages.lib.pinned import BASE, MANIFEST, Pinned, load_pinned
from stages.params.train import TrainParams

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

PACKED = Path("data/packed")
ADAPTER = Path("models/adapter")
REPORT = Path("reports/train.json")
TRAIN_LOSS = Path("reports/train_loss.csv")
EVAL_LOSS = Path("reports/eval_loss.csv")


@dataclass(frozen=True)
class Tuned:
    """What training gave, apart from the weights."""

    metrics: dict[str, Any]
    train_loss: list[dict[str, Any]]
    eval_loss: list[dict[str, Any]]
    tokens_per_second: float
    device: str


@dataclass(frozen=True)
class Plan:
    """How many steps training takes, and when it pauses to be judged."""

    steps: int
    steps_per_epoch: float
    steps_between_judgements: int


def train(packed: Path, base: Path, out: Path, state: Path, params: TrainParams, seed: int) -> Tuned:
    """Train on `packed`, keeping checkpoints in `state`, and write the best model into `out`.

    A run that was killed resumes from its newest intact checkpoint and gives the same weights as if it never had been.

    Raises:
        UserError: when there is nothing to train, the base or device cannot do what params ask, or memory runs out.
        Stopped: on SIGTERM or Ctrl-C, after a checkpoint was saved.
    """
    from transformers import PrinterCallback

    from stages.lib import models
    from stages.lib.trainer import Divergence, PackedCollator, PackedTrainer, Progress, SafeCheckpoints, curve

    pinned = load_pinned(base)
    manifest = artifacts.read_json(packed / "manifest.json", made_by="tokenize")
    template = artifacts.read_json(packed / "template.json", made_by="tokenize")
    rows = {split: _rows(packed, manifest, split) for split in ("train", "validation")}
    plan = plan_steps(manifest["splits"]["train"]["rows"], params)
    dtype = models.dtype_for(params.precision)
    _refuse_impossible(params, dtype)
    progress = Progress(manifest["splits"]["train"]["tokens"], plan.steps_per_epoch)
    with _memory_errors_in_words(params, manifest["max_length"]):
        packs = any(one["examples"] > one["rows"] for one in manifest["splits"].values())
        model = prepare_model(pinned, base, params, dtype, packs=packs)
        judged = rows["validation"] is not None
        with _peft_errors_in_words(model):
            trainer = PackedTrainer(
                model=model,
                args=_arguments(state, params, plan, seed, dtype, judged=judged),
                train_dataset=rows["train"],
                eval_dataset=rows["validation"],
                data_collator=PackedCollator(manifest["pad_token_id"]),
                processing_class=models.load_tokenizer(base),
                peft_config=_lora(params) if params.method != "full" else None,
                callbacks=[Divergence(), progress, SafeCheckpoints(), *_early_stopping(params, judged)],
            )
        trainer.remove_callback(PrinterCallback)
        if params.method == "qlora":
            _keep_adapter_in_fp32(trainer.model)
        _run(trainer, state, plan)
    _save(trainer.model, pinned, base, template, out, params)
    history = trainer.state.log_history
    losses, judgements = curve(history, "loss"), curve(history, "eval_loss")
    return Tuned(
        metrics=_metrics(trainer, losses, judgements, plan, params),
        train_loss=[
            {"step": one["step"], "loss": one["loss"], "lr": one["learning_rate"], "grad_norm": one["grad_norm"]}
            for one in losses
        ],
        eval_loss=[{"step": one["step"], "loss": one["eval_loss"]} for one in judgements],
        tokens_per_second=progress.speed(trainer.state.global_step),
        device=str(trainer.args.device),
    )


def plan_steps(rows: int, params: TrainParams) -> Plan:
    """Optimizer steps for `rows` packed rows. The last step of an epoch may hold fewer rows."""
    steps_per_epoch = math.ceil(math.ceil(rows / params.batch_size) / params.accumulation)
    steps = max(1, round(steps_per_epoch * params.epochs))
    if params.max_steps is not None:
        steps = min(steps, params.max_steps)
    between = max(1, min(steps, steps_per_epoch // params.evals_per_epoch))
    return Plan(steps, steps_per_epoch, between)


def prepare_model(pinned: Pinned, base: Path, params: TrainParams, dtype: Any, *, packs: bool) -> "PreTrainedModel":
    """The base, loaded the way the method trains it. Frozen weights need no more than the compute type.

    Raises:
        UserError: when the base cannot keep the examples of a packed row apart (`packs`: there is such a row).
    """
    import torch

    from stages.lib import attention, models

    weights = torch.float32 if params.method == "full" else dtype
    model = models.load_base(pinned, weights, quantized=params.method == "qlora", base=base)
    attention.prepare(model, packs=packs)
    if params.method == "qlora":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=params.gradient_checkpointing)
    return model


def _rows(packed: Path, manifest: dict[str, Any], split: str) -> "Dataset | None":
    """The packed rows of a split, mapped into memory; None when the split is empty."""
    from datasets import Dataset

    entry = manifest["splits"][split]
    path = packed / entry["file"]
    if not path.is_file() or artifacts.sha256(path) != entry["sha256"]:
        raise UserError(f"{path} is not the file that tokenize wrote. Run `dvc repro -f tokenize`.")
    if entry["rows"] == 0:
        return None
    return Dataset.from_file(str(path)).select_columns(["input_ids", "labels", "seq_lengths"])


def _refuse_impossible(params: TrainParams, dtype: Any) -> None:
    import torch

    from stages.lib import models

    if dtype == torch.float16 and models.device().type == "cpu":
        raise UserError("params.yaml: train.precision is fp16, which needs a GPU. Set it to auto, fp32 or bf16.")
    if dtype == torch.bfloat16 and not models.computes_in_bf16(models.device()):
        warn("params.yaml: train.precision is bf16, which this device only emulates, very slowly; auto takes fp32.")


def _arguments(state: Path, params: TrainParams, plan: Plan, seed: int, dtype: Any, *, judged: bool) -> Any:
    import torch
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(state),
        max_steps=plan.steps,
        per_device_train_batch_size=params.batch_size,
        per_device_eval_batch_size=params.batch_size,
        gradient_accumulation_steps=params.accumulation,
        learning_rate=params.lr,
        lr_scheduler_type=f"{params.scheduler}_with_warmup" if params.scheduler == "constant" else params.scheduler,
        warmup_steps=math.ceil(params.warmup * plan.steps),
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        gradient_checkpointing=params.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if params.gradient_checkpointing else None,
        use_cpu=not torch.cuda.is_available(),
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        eval_strategy="steps" if judged else "no",
        eval_steps=plan.steps_between_judgements,
        save_strategy="steps",
        save_steps=plan.steps_between_judgements,
        save_total_limit=2,
        load_best_model_at_end=judged,
        metric_for_best_model="eval_loss" if judged else None,
        greater_is_better=False if judged else None,
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        seed=seed,
        full_determinism=True,
        packing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _run(trainer: Any, state: Path, plan: Plan) -> None:
    """Train to the end, from the newest checkpoint if there is one."""
    resume = checkpoints.latest(state)
    print(f"train: resuming {state.name} at {resume.name}" if resume else f"train: starting {state.name} afresh")
    if resume and checkpoints.is_finished(resume, plan.steps):  # only saving the outcome had failed
        _restore(trainer, resume)
    else:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def _restore(trainer: Any, finished: Path) -> None:
    """Put the trainer into the state in which training ended. Trainer itself would take one more step."""
    from transformers import TrainerState

    trainer.state = TrainerState.load_from_json(str(finished / "trainer_state.json"))
    trainer._load_from_checkpoint(trainer.state.best_model_checkpoint or str(finished))


def _lora(params: TrainParams) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=params.lora.r,
        lora_alpha=params.lora.alpha,
        lora_dropout=params.lora.dropout,
        target_modules=params.lora.target_modules,
        task_type="CAUSAL_LM",
    )


def _keep_adapter_in_fp32(model: Any) -> None:
    """Undo TRL's rounding of a quantized base's adapter to bf16.

    In bf16 an update smaller than a 250th of the weight is lost, and peft loads checkpoints as fp32 in any case: a
    resumed run would go on with other arithmetic.
    """
    import torch

    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.float32)


def _early_stopping(params: TrainParams, judged: bool) -> list[Any]:
    if params.early_stopping is None or not judged:
        return []
    from transformers import EarlyStoppingCallback

    return [EarlyStoppingCallback(early_stopping_patience=params.early_stopping)]


def _save(model: Any, pinned: Pinned, base: Path, template: dict[str, Any], out: Path, params: TrainParams) -> None:
    """Write the weights as safetensors, with all that the model needs to be used: tokenizer, chat template, origin."""
    from stages.lib import models

    if params.method != "full":
        model.peft_config["default"].base_model_name_or_path = pinned.name
        if pinned.source == "hub":
            model.peft_config["default"].revision = pinned.revision
        # Only embeddings that were trained would have to be saved; peft would ask the hub whether they were.
        model.save_pretrained(out, save_embedding_layers=False)
    else:
        model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)  # peft's empty model card
    if params.method != "full":
        # peft keeps module names in a set, whose order changes with the hash seed of the process.
        config = artifacts.read_json(out / "adapter_config.json", made_by="train")
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()
        artifacts.write_json(out / "adapter_config.json", config)
    models.save_tokenizer(base, template["chat_template"], out)
    models.save_origin(pinned, params.method, out)


def _metrics(
    trainer: Any, losses: list[dict[str, Any]], judgements: list[dict[str, Any]], plan: Plan, params: TrainParams
) -> dict[str, Any]:
    """The content of reports/train.json."""
    steps = trainer.state.global_step
    closing = losses[-max(1, len(losses) // 10) :]
    best = trainer.state.best_global_step or steps
    counts = [(weight.numel(), weight.requires_grad) for weight in trainer.model.parameters()]
    return artifacts.finite(
        {
            "method": params.method,
            "steps": steps,
            "steps_planned": plan.steps,
            "stopped_early": steps < plan.steps,
            "train_loss": sum(one["loss"] for one in closing) / len(closing),
            "eval_loss": next((one["eval_loss"] for one in judgements if one["step"] == best), None),
            "best_step": best,
            "trainable_parameters": sum(count for count, trained in counts if trained),
        }
    )


@contextmanager
def _peft_errors_in_words(model: Any) -> Iterator[None]:
    """Name the modules that the model has when params name others."""
    kinds = ("Linear", "Linear4bit", "Conv1D")
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if type(module).__name__ in kinds}
    try:
        yield
    except ValueError as error:
        if "arget modules" not in str(error) and "lm_head" not in str(error):
            raise
        raise UserError(
            "params.yaml: train.lora.target_modules matches nothing that can be tuned in this model. It has "
            f"{', '.join(sorted(names - {'lm_head'}))}. Name some of these in a list, write one regular expression "
            "that matches whole module paths, or use all-linear."
        ) from None


@contextmanager
def _memory_errors_in_words(params: TrainParams, max_length: int) -> Iterator[None]:
    """Answer running out of memory with the knobs that lower it."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not is_memory:
            raise
        raise UserError(
            f"out of memory with batches of {params.batch_size} × {max_length} tokens. Lower train.batch_size and "
            "raise train.accumulation by the same factor (the result stays the same), set "
            "train.gradient_checkpointing to true, lower tokenize.max_length, or use train.method qlora. "
            f"({str(error).splitlines()[0]})"
        ) from None


def write_curve(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Write a curve as CSV, for `dvc plots`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    artifacts.write_text(path, text.getvalue())


def main() -> None:
    """Run the stage."""
    params, seed = load(TrainParams), load_seed()
    experiments.require_all_files(Path("data/raw"))  # validate cannot, where it is taken from the cache
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is reproducible only with a fixed workspace
    # One device: Trainer would split batches over all that it sees.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    from stages.lib import attention, models  # noqa: F401  # the fingerprint covers what is loaded by then

    models.hush()  # before trainer imports TRL, and that bitsandbytes
    from stages.lib.trainer import Stopped

    facts = {
        "params": params.model_dump(),
        "seed": seed,
        "device": models.device().type,
        "precision": str(models.dtype_for(params.precision)),
        "packed": artifacts.read_json(PACKED / "manifest.json", made_by="tokenize"),
        "base": artifacts.read_json(BASE / MANIFEST, made_by="base"),
    }
    state = checkpoints.root() / checkpoints.fingerprint(facts)
    with checkpoints.locked(state):
        if os.environ.get("RETUNE_FRESH") == "1":
            checkpoints.discard(state)
        with runtime.measured("train") as figures, artifacts.replacing(ADAPTER) as out:
            try:
                tuned = train(PACKED, BASE, out, state, params, seed)
            except Stopped as stopped:
                print(f"train: stopped by {stopped}; saved in {state.name}, `dvc repro` goes on there", file=sys.stderr)
                raise SystemExit(128 + stopped.signal) from None
            artifacts.write_json(REPORT, tuned.metrics)
            write_curve(TRAIN_LOSS, tuned.train_loss, ["step", "loss", "lr", "grad_norm"])
            write_curve(EVAL_LOSS, tuned.eval_loss, ["step", "loss"])
            figures |= {"device": tuned.device, "tokens_per_second": round(tuned.tokens_per_second, 1)}
        checkpoints.discard(state)
    print(_summary(tuned.metrics))


def _summary(metrics: dict[str, Any]) -> str:
    judged = (
        f" · validation loss {metrics['eval_loss']:.4f} at step {metrics['best_step']}"
        if "eval_loss" in metrics
        else ""
    )
    early = f" (of {metrics['steps_planned']}: stopped early)" if metrics["stopped_early"] else ""
    return (
        f"train: {metrics['method']} · {metrics['trainable_parameters'] / 1e6:,.1f} M trained parameters · "
        f"{metrics['steps']} steps{early} · loss {metrics['train_loss']:.4f}{judged} → {ADAPTER}"
    )


if __name__ == "__main__":
    run(main)
