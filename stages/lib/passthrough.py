"""Settings of TRL and peft that have no key here: handed on as they are, unless they cannot mean anything here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, get_type_hints

from stages.lib.errors import UserError

# What Retune does itself, and the settings that would do it over, do it twice, or do nothing.
TAKEN: dict[str, tuple[str, ...]] = {
    "rows are made, packed and batched by Retune": (
        "assistant_only_loss",
        "chat_template_path",
        "completion_only_loss",
        "dataloader_drop_last",
        "dataset_num_proc",
        "dataset_text_field",
        "eos_token",
        "eval_packing",
        "label_names",
        "length_column_name",
        "packing_strategy",
        "pad_to_multiple_of",
        "pad_token",
        "padding_free",
        "shuffle_dataset",
        "train_sampling_strategy",
        "truncation_mode",
    ),
    "the loss is Retune's, summed over trained tokens": (
        "average_tokens_across_devices",
        "loss_type",
        "router_aux_loss_coef",
    ),
    "the validation split is judged by Retune": (
        "batch_eval_metrics",
        "bf16_full_eval",
        "eval_accumulation_steps",
        "eval_delay",
        "eval_do_concat_batches",
        "eval_on_start",
        "eval_use_gather_object",
        "fp16_full_eval",
        "include_for_metrics",
        "prediction_loss_only",
    ),
    "Retune writes checkpoints, curves and lines, and resumes": (
        "do_eval",
        "do_predict",
        "do_train",
        "enable_jit_checkpoint",
        "ignore_data_skip",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "logging_first_step",
        "logging_strategy",
        "resume_from_checkpoint",
        "save_on_each_node",
    ),
    "train.epochs, max_steps and find_batch_size say how much is trained": ("auto_find_batch_size", "num_train_epochs"),
    "train.gradient_checkpointing decides it": ("activation_checkpointing", "activation_checkpointing_kwargs"),
    "train.launch shares out the work": (
        "accelerator_config",
        "deepspeed",
        "fsdp",
        "fsdp_config",
        "local_rank",
        "parallelism_config",
    ),
    "the base is loaded by Retune, without code of its own": ("model_init_kwargs", "trust_remote_code"),
    "nothing leaves this machine": (
        "hub_always_push",
        "hub_model_id",
        "hub_private_repo",
        "hub_revision",
        "hub_strategy",
        "hub_token",
        "push_to_hub",
    ),
    "Retune writes what the adapter is and which base it belongs to": (
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_type",
        "peft_version",
        "revision",
    ),
    "a checkpoint does not hold the state of its noise": ("monteclora_config",),
    "it goes with an init_lora_weights that is not offered here": (
        "corda_config",
        "eva_config",
        "loftq_config",
        "lora_ga_config",
    ),
}


def configured(kind: Callable[..., Any], own: dict[str, Any], more: dict[str, Any], place: str) -> Any:
    """A library's configuration: what our params say, and what else the user hands on to it as it is.

    Args:
        kind: the library's dataclass.
        own: settings that Retune gives.
        more: settings that the user gives.
        place: where in params.yaml `more` stands.

    Raises:
        UserError: it does not know a setting, refuses its value, or it is not the user's to set.
    """
    known = {field.name for field in fields(kind) if field.init}  # type: ignore[arg-type]
    for name, value in more.items():
        if name in own:
            raise UserError(f"params.yaml: {place} holds {name}, which another param sets. Take it out there.")
        if name not in known:
            raise UserError(f"params.yaml: {place} holds {name}, which {kind.__name__} does not know.")
        if reason := next((why for why, names in TAKEN.items() if name in names), None):
            raise UserError(f"params.yaml: {place} holds {name}, but {reason}. Take it out there.")
        _require_kind(kind, name, value, place)
    with refusals(place.removesuffix(".more")):
        return kind(**own, **more)


def _require_kind(kind: Callable[..., Any], name: str, value: Any, place: str) -> None:
    """Dataclasses take any value; many a wrong one would be found hours later, or never."""
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(get_type_hints(kind)[name]).validate_python(value)
    except ValidationError as error:
        wanted = " or ".join(dict.fromkeys(one["msg"].removeprefix("Input should be ") for one in error.errors()))
        raise UserError(f"params.yaml: {place}.{name} is {value!r}, and should be {wanted}.") from None


@contextmanager
def refusals(place: str) -> Iterator[None]:
    """Say where in params.yaml stands what a library refuses."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UserError(f"params.yaml: {place} was refused: {error}") from None
