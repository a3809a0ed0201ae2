"""Tune the base on packed rows: LoRA, QLoRA or every weight, with TRL's SFTTrainer, in one process or several.

Reads   data/packed/ (Arrow rows, manifest.json, template.json), models/base/
Writes  models/adapter/ (the adapter, or the full weights, with tokenizer and chat template),
        reports/train.json, reports/train_loss.csv, reports/eval_loss.csv
"""

import csv
import io
import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.lib import adapters, artifacts, checkpoints, diagnosis, experiments, launch, passthrough, runtime
from stages.lib.errors import UserError, run, warn
from stages.lib.params import load, load_seed
from stages.lib.pinned import BASE, MANIFEST, Pinned, load_pinned
from stages.params.train import TrainParams

PACKED = Path("data/packed")
ADAPTER = Path("models/adapter")
REPORT = Path("reports/train.json")
TRAIN_LOSS = Path("reports/train_loss.csv")
EVAL_LOSS = Path("reports/eval_loss.csv")
LIVE = runtime.RUNTIME / "train_live.csv"
TUNED = "tuned.json"  # what the first of several processes hands to the stage


@dataclass(frozen=True)
class Tuned:
    """What training gave, apart from the weights."""

    metrics: dict[str, Any]
    train_loss: list[dict[str, Any]]
    eval_loss: list[dict[str, Any]]
    tokens_per_second: float
    device: str
    memory: dict[str, Any]  # how it was used


@dataclass(frozen=True)
class Plan:
    """How many steps training takes, and when it pauses to be judged."""

    steps: int
    steps_per_epoch: float
    steps_between_judgements: int


def train(packed: Path, base: Path, out: Path, state: Path, params: TrainParams, seed: int, live: Path = LIVE) -> Tuned:
    """Train on `packed`, keeping checkpoints in `state`, and write the best model into `out`; `live` shows the curve.

    A run that was killed resumes from its newest intact checkpoint and gives the same weights as if it never had been.

    Raises:
        UserError: when there is nothing to train, the base or device cannot do what params ask, or memory runs out.
        Stopped: on SIGTERM or Ctrl-C, after a checkpoint was saved.
    """
    from stages.lib import attention, callbacks, fitting, methods, models
    from stages.lib import packed as packed_rows
    from stages.lib.trainer import LayoutCollator, PackedCollator, PackedTrainer

    pinned = load_pinned(base)
    manifest = artifacts.read_json(packed / "manifest.json", made_by="tokenize")
    template = artifacts.read_json(packed / "template.json", made_by="tokenize")
    rows, validation = (packed_rows.read(packed, manifest, split) for split in ("train", "validation"))
    if rows is None:
        raise UserError(
            "there is no row to train on. See reports/split.json and reports/tokenize.json for where they went."
        )
    dtype = models.dtype_for(params.precision)
    _refuse_impossible(params, dtype)
    adapter = adapters.config(params.lora) if params.method != "full" else None
    width = manifest["max_length"] if params.compile else None
    fit = fitting.plan(base, rows, width, adapter, state, params, dtype)
    params = params.model_copy(update=fit.settings())
    plan = plan_steps(len(rows.rows), params)
    progress = callbacks.Progress(manifest["splits"]["train"]["tokens"], plan.steps_per_epoch)
    with fitting.memory_errors_in_words(fit, params.method):
        packs = any(one["examples"] > one["rows"] for one in manifest["splits"].values())
        model = methods.prepare(pinned, base, params, dtype, packs=packs)
        laid_out = attention.lays_out(model)
        trainer = PackedTrainer(
            weighted=rows.weighted,
            rate_of_b=params.lora.lr_ratio,
            model=model,
            args=_arguments(state, params, plan, seed, dtype, judged=validation is not None),
            train_dataset=rows.rows,
            eval_dataset=validation.rows if validation else None,
            data_collator=LayoutCollator() if laid_out else PackedCollator(manifest["pad_token_id"], width),
            processing_class=models.load_tokenizer(base),
            peft_config=adapter,
            callbacks=[
                callbacks.Divergence(),
                progress,
                callbacks.LiveCurve(live, progress),
                callbacks.SafeCheckpoints(),
                *_early_stopping(params, validation is not None),
                *([callbacks.SeveralProcesses()] if params.launch.processes > 1 else []),
            ],
        )
        methods.complete(trainer.model, params)
        beginning = adapters.Beginning(trainer.model) if adapter is not None else None
        if params.find_batch_size and fitting.tries(state):
            fit = trainer.find_batch(fit, rows.heaviest(fit.batch_size))
    with fitting.memory_errors_in_words(fit, params.method):
        _run(trainer, state, plan)
    _save(trainer, pinned, base, template, out, params.method, beginning)
    padding = 0.0 if laid_out else diagnosis.padding(rows.lengths, params.batch_size, width)
    facts = _facts(params, manifest, trainer.state.global_step / plan.steps_per_epoch, padding)
    return _tuned(trainer, params, plan, facts, progress.speed(trainer.state.global_step), fit.figures())


def plan_steps(rows: int, params: TrainParams) -> Plan:
    """Optimizer steps for `rows` packed rows, over all processes. The last step of an epoch may hold fewer rows."""
    steps_per_epoch = math.ceil(rows / (params.batch_size * params.launch.processes * params.accumulation))
    steps = max(1, round(steps_per_epoch * params.epochs))
    if params.max_steps is not None:
        steps = min(steps, params.max_steps)
    between = max(1, min(steps, steps_per_epoch // params.evals_per_epoch))
    return Plan(steps, steps_per_epoch, between)


def _refuse_impossible(params: TrainParams, dtype: Any) -> None:
    import torch

    from stages.lib import models

    if params.find_batch_size and params.launch.spreads:
        raise UserError(
            "params.yaml: train.find_batch_size is for one process: several might find different ones. Set it to "
            "false, and train.batch_size to what one GPU can hold."
        )
    if params.more.get("activation_offloading") and models.device().type == "cpu":
        raise UserError("params.yaml: train.more.activation_offloading needs a GPU. Take it out.")
    if dtype == torch.float16 and models.device().type == "cpu":
        raise UserError("params.yaml: train.precision is fp16, which needs a GPU. Set it to auto, fp32 or bf16.")
    if dtype == torch.bfloat16 and not models.computes_in_bf16(models.device()):
        warn("params.yaml: train.precision is bf16, which this device only emulates, very slowly; auto takes fp32.")


def _arguments(state: Path, params: TrainParams, plan: Plan, seed: int, dtype: Any, *, judged: bool) -> Any:
    import torch
    from trl import SFTConfig

    from stages.lib import methods

    own = {
        "output_dir": str(state),
        "max_steps": plan.steps,
        "per_device_train_batch_size": params.batch_size,
        "per_device_eval_batch_size": params.batch_size,
        "gradient_accumulation_steps": params.accumulation,
        "learning_rate": params.lr,
        "optim": params.optimizer,
        "lr_scheduler_type": f"{params.scheduler}_with_warmup" if params.scheduler == "constant" else params.scheduler,
        "warmup_steps": math.ceil(params.warmup * plan.steps),
        "weight_decay": params.weight_decay,
        "max_grad_norm": params.max_grad_norm,
        "label_smoothing_factor": params.label_smoothing,
        "neftune_noise_alpha": params.neftune,
        "torch_compile": params.compile,
        "use_liger_kernel": params.liger and methods.liger() is not None,
        "gradient_checkpointing": params.recomputes,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if params.recomputes else None,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "eval_strategy": "steps" if judged else "no",
        "eval_steps": plan.steps_between_judgements,
        "save_strategy": "steps",
        "save_steps": plan.steps_between_judgements,
        "save_total_limit": None,  # older ones go once the new one is known to be whole
        "save_only_model": False,
        "load_best_model_at_end": judged,
        "metric_for_best_model": "eval_loss" if judged else None,
        "greater_is_better": False if judged else None,
        "restore_callback_states_from_checkpoint": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "seed": seed,
        "full_determinism": True,
        "packing": False,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
        "ddp_broadcast_buffers": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if "lr_scheduler_kwargs" not in params.more:
        own["lr_scheduler_kwargs"] = {
            "cosine_with_min_lr": {"min_lr_rate": 0.1},
            "warmup_stable_decay": {"num_decay_steps": math.ceil(plan.steps / 5)},
        }.get(params.scheduler)
    arguments = passthrough.configured(SFTConfig, own, params.more, "train.more")
    if arguments.torch_compile != params.compile:  # a backend or a mode alone switches it on
        raise UserError("params.yaml: train.more says how to compile, but train.compile is false. Set it to true.")
    return arguments


def _run(trainer: Any, state: Path, plan: Plan) -> None:
    """Train to the end, from the newest checkpoint if there is one."""
    from accelerate.utils import broadcast_object_list

    found = [checkpoints.latest(state) if trainer.is_world_process_zero() else None]
    resume = broadcast_object_list(found)[0]
    print(f"train: resuming {state.name} at {resume.name}" if resume else f"train: starting {state.name} afresh")
    if resume and checkpoints.is_finished(resume, plan.steps):  # only saving the outcome had failed
        _restore(trainer, resume)
    else:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def _restore(trainer: Any, finished: Path) -> None:
    """Put the trainer into the state in which training ended. Trainer itself would take one more step."""
    from transformers import TrainerState

    trainer.state = TrainerState.load_from_json(str(finished / "trainer_state.json"))
    best = str(checkpoints.best(finished) or finished)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        trainer._prepare_for_training(trainer.state.max_steps, trainer.get_train_dataloader(), best)
    else:
        trainer._load_from_checkpoint(best)


def _early_stopping(params: TrainParams, judged: bool) -> list[Any]:
    if params.early_stopping is None or not judged:
        return []
    from transformers import EarlyStoppingCallback

    return [EarlyStoppingCallback(early_stopping_patience=params.early_stopping)]


def _save(
    trainer: Any,
    pinned: Pinned,
    base: Path,
    template: dict[str, Any],
    out: Path,
    method: str,
    beginning: adapters.Beginning | None,
) -> None:
    """Write the weights as safetensors, with all that the model needs to be used: tokenizer, chat template, origin."""
    from stages.lib import models

    # What is spread over the processes is collected by all of them, and written by the first.
    spread = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    weights: dict[str, Any] | None = trainer.accelerator.get_state_dict(trainer.model_wrapped) if spread else None
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if beginning is None:
        if weights is not None:  # once collected, tied weights no longer look it
            weights = {name: value for name, value in weights.items() if name not in model.all_tied_weights_keys}
        model.save_pretrained(out, state_dict=weights)
    else:
        adapters.save(model, weights, pinned, beginning, out)
    models.save_tokenizer(base, template["chat_template"], out)
    models.save_origin(pinned, method, out)


def _tuned(
    trainer: Any,
    params: TrainParams,
    plan: Plan,
    facts: diagnosis.Facts,
    tokens_per_second: float,
    memory: dict[str, Any],
) -> Tuned:
    """Curves, what they say, and the figures of reports/train.json."""
    from stages.lib import callbacks

    history = trainer.state.log_history
    losses, judgements = callbacks.curve(history, "loss"), callbacks.curve(history, "eval_loss")
    train_loss = [
        {"step": one["step"], "loss": one["loss"], "lr": one["learning_rate"], "grad_norm": one["grad_norm"]}
        for one in losses
    ]
    eval_loss = [{"step": one["step"], "loss": one["eval_loss"]} for one in judgements]
    said = diagnosis.diagnose(diagnosis.Curves.of(train_loss, eval_loss), facts)
    return Tuned(
        metrics=_metrics(trainer, train_loss, eval_loss, plan, params) | {"diagnosis": diagnosis.report(said)},
        train_loss=train_loss,
        eval_loss=eval_loss,
        tokens_per_second=tokens_per_second,
        device=str(trainer.args.device) + (f" × {params.launch.processes}" if params.launch.processes > 1 else ""),
        memory=memory,
    )


def _metrics(
    trainer: Any, train_loss: list[dict[str, Any]], eval_loss: list[dict[str, Any]], plan: Plan, params: TrainParams
) -> dict[str, Any]:
    """The content of reports/train.json."""
    from transformers.trainer_pt_utils import get_model_param_count

    steps = trainer.state.global_step
    closing = train_loss[-max(1, len(train_loss) // 10) :]
    best = trainer.state.best_global_step or steps
    return artifacts.finite(
        {
            "method": params.method,
            "steps": steps,
            "steps_planned": plan.steps,
            "stopped_early": steps < plan.steps,
            "train_loss": sum(one["loss"] for one in closing) / len(closing),
            "eval_loss": next((one["loss"] for one in eval_loss if one["step"] == best), None),
            "best_step": best,
            "trainable_parameters": get_model_param_count(trainer.model, trainable_only=True),
        }
    )


def _facts(params: TrainParams, manifest: dict[str, Any], epochs: float, padding: float) -> diagnosis.Facts:
    """What the diagnosis has to know besides the curves."""
    train = manifest["splits"]["train"]
    return diagnosis.Facts(
        method=params.method,
        lr=params.lr,
        max_grad_norm=params.max_grad_norm,
        epochs=epochs,
        examples=train["examples"],
        dropped=train["dropped"],
        max_length=manifest["max_length"],
        padding=padding,
    )


def write_curve(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Write a curve as CSV, for `dvc plots`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    artifacts.write_text(path, text.getvalue())


def main() -> None:
    """Run the stage."""
    if launch.is_worker():
        with launch.working(Path(sys.argv[1])):
            work(Path(sys.argv[1]))
        return
    params = load(TrainParams)
    seed = load_seed() if params.seed is None else params.seed
    experiments.require_all_files(Path("data/raw"))  # validate cannot, where it is taken from the cache
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is reproducible only with a fixed workspace
    if not params.launch.spreads:  # one device: Trainer would split batches over all that it sees
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    from stages.lib import attention, methods, models

    models.hush()  # before trainer imports TRL, and that bitsandbytes
    from stages.lib import callbacks, trainer  # noqa: F401  # the fingerprint covers what is loaded by then

    told = launch.settings(params.launch)
    if params.method == "qlora" and launch.shards(told):
        raise UserError(
            "params.yaml: train.method is qlora, whose 4-bit weights are not shared out here. Set train.launch.config "
            "to null, so that each GPU holds them all, or train.method to lora."
        )
    facts = {
        "params": params.model_dump(),
        "seed": seed,
        "device": models.device().type,
        "precision": str(models.dtype_for(params.precision)),
        "kernels": attention.kernels() | {"liger": methods.liger() if params.liger else None},
        "launch": told,
        "packed": artifacts.read_json(PACKED / "manifest.json", made_by="tokenize"),
        "base": artifacts.read_json(BASE / MANIFEST, made_by="base"),
    }
    state = checkpoints.root() / checkpoints.fingerprint(facts)
    if launch.machine_rank(told) > 0:  # the first machine writes
        _start_workers(ADAPTER, state, params, seed, told)
        return
    with checkpoints.locked(state):
        if os.environ.get("RETUNE_FRESH") == "1":
            checkpoints.discard(state)
        with runtime.measured("train") as figures, artifacts.replacing(ADAPTER) as out:
            if params.launch.spreads:
                _start_workers(out, state, params, seed, told)
                tuned = Tuned(**artifacts.read_json(state / TUNED, made_by="train"))
            else:
                tuned = _train_or_stop(out, state, params, seed)
            artifacts.write_json(REPORT, tuned.metrics)
            write_curve(TRAIN_LOSS, tuned.train_loss, ["step", "loss", "lr", "grad_norm"])
            write_curve(EVAL_LOSS, tuned.eval_loss, ["step", "loss"])
            speed = round(tuned.tokens_per_second, 1)
            figures |= {"device": tuned.device, "tokens_per_second": speed, **tuned.memory}
        checkpoints.discard(state)
    found = tuned.metrics["diagnosis"]["findings"][0]
    print(f"train: {found['name']}: {found['fact']} {found['advice']}")
    print(_summary(tuned.metrics))


def _train_or_stop(out: Path, state: Path, params: TrainParams, seed: int) -> Tuned:
    from stages.lib.callbacks import Stopped

    try:
        return train(PACKED, BASE, out, state, params, seed)
    except Stopped as stopped:
        print(f"train: stopped by {stopped}; saved in {state.name}, `dvc repro` goes on there", file=sys.stderr)
        raise SystemExit(128 + stopped.signal) from None


def _start_workers(out: Path, state: Path, params: TrainParams, seed: int, told: dict[str, Any]) -> None:
    """Have several processes `work`; the first of all writes into `out`."""
    task = state / f"task-{launch.machine_rank(told)}.json"
    artifacts.write_json(task, {"out": str(out), "params": params.model_dump(), "seed": seed})
    launch.start("stages.train", task, params.launch, told)


def work(task: Path) -> None:
    """Be one of several processes that train."""
    from stages.lib import models

    models.hush()
    told = artifacts.read_json(task, made_by="train")
    params, state = TrainParams.model_validate(told["params"]), task.parent
    tuned = _train_or_stop(Path(told["out"]), state, params, told["seed"])
    if os.environ["RANK"] == "0":
        artifacts.write_json(state / TUNED, asdict(tuned))


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
