"""lm-evaluation-harness as a second judge: the held-out rows as tasks of its own, and what it finds of a model.

What can be lm_eval's is lm_eval's: tokens, batches, generation, log-likelihoods, exact match and sums over rows.
lm_eval is no dependency of the pipeline; `pip install -c constraints.txt --group harness` brings it.
"""

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.lib.ending import Stops
from stages.lib.errors import UserError
from stages.lib.prompts import Segment, answer_start
from stages.lib.tokens import Example

ANSWERS, REFERENCES = "retune_answers", "retune_references"
VERSION = 1  # of both tasks: raise it when they ask or judge otherwise


@dataclass(frozen=True)
class Row:
    """One held-out row, as lm_eval is given it."""

    prompt: str  # byte for byte as it is sent, so no template is applied again
    answer: str  # the reference as the template writes it
    completion: str  # the same with what ends it
    example: Example  # its tokens as Retune reads them


def as_row(segments: Sequence[Segment], example: Example, ends: Sequence[str]) -> Row:
    """A row of data/prompts.

    Args:
        segments: the whole conversation.
        example: the tokens of it.
        ends: the tokens, as text, that end an answer.
    """
    start = answer_start(segments)
    prompt, completion = ("".join(one.text for one in part) for part in (segments[:start], segments[start:]))
    answer = completion
    while end := next((one for one in ends if answer.endswith(one)), None):
        answer = answer.removesuffix(end)
    return Row(prompt, answer, completion, example)


def tasks(rows: Sequence[Row], stops: Stops, max_new_tokens: int) -> list[dict[str, Any]]:
    """The configurations of two tasks over the same rows: one answers the prompts, one foresees the references."""
    shared = {
        "custom_dataset": lambda **_: {"test": _dataset(rows)},
        "test_split": "test",
        "doc_to_target": "answer",  # the name of a column is taken as it is, where a template would drop line ends
        "target_delimiter": "",
        "num_fewshot": 0,
        "metadata": {"version": VERSION},
    }
    generation = {
        "until": list(stops.texts),
        # As tokens, not as texts: lm_eval drops control tokens before it looks for `until`, and keeps what comes after.
        "eos_token_id": list(stops.ids) or None,
        "max_gen_toks": max_new_tokens,
        "do_sample": False,
    }
    answers = {
        "task": ANSWERS,
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "generation_kwargs": generation,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    weighted = {"bits_per_byte": "bits_per_byte", "perplexity": "weighted_perplexity"}
    references = {
        "task": REFERENCES,
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "process_results": foreseen,
        "metric_list": [
            {"metric": metric, "aggregation": aggregation, "higher_is_better": False}
            for metric, aggregation in weighted.items()
        ],
    }
    return [shared | answers, shared | references]


def _dataset(rows: Sequence[Row]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([columns(row) for row in rows])


def columns(row: Row) -> dict[str, Any]:
    """A row as both tasks read it.

    lm_eval moves blanks at the end of a context over to what continues it. So they are asked for by themselves as well:
    what follows them has the difference.
    """
    context = row.prompt.rstrip()
    blanks = row.prompt[len(context) :]
    return {
        "prompt": row.prompt,
        "answer": row.answer,
        "context": context,
        "choices": [blanks + row.answer, blanks + row.completion, *([blanks] if blanks else [])],
        "tokens": len(row.example.completion),
    }


def foreseen(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """What lm_eval adds up: the log-likelihood of a reference, and how much text it is.

    Bits per byte are of the answer alone, perplexity is of its tokens and the one that ends it, as `evaluate` has them.
    """
    answer, completion, *blanks = (likelihood for likelihood, _ in results)
    return {
        "bits_per_byte": (answer - sum(blanks), len(doc["answer"].encode())),
        "perplexity": (completion - sum(blanks), doc["tokens"]),
    }


def require() -> None:
    """Stop where lm_eval is missing.

    Raises:
        UserError: with the command that installs it.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm_eval is not installed. Run `pip install -c constraints.txt --group harness`.")


def wrap(model: Any, tokenizer: Any, batch_size: int, **settings: Any) -> Any:
    """A model that is loaded already, as lm_eval wants it: loading stays with `models`."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of settings that are meant
    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=batch_size,
        trust_remote_code=False,
        **settings,
    )


def judge(wrapped: Any, asked: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What lm_eval finds of a model in `tasks`."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)
    found: Mapping[str, Any] = simple_evaluate(
        wrapped, tasks=[dict(one) for one in asked], task_manager=manager, bootstrap_iters=0
    )
    return found


@dataclass(frozen=True)
class Published:
    """Tasks that come with lm_eval."""

    names: Sequence[str]
    manager: Any  # lm_eval's index of tasks

    def judge(self, wrapped: Any) -> Mapping[str, Any]:
        """What lm_eval finds of a model, asked as is usual there: no chat template, as many shots as a task says."""
        from lm_eval import simple_evaluate

        found: Mapping[str, Any] = simple_evaluate(
            wrapped, tasks=list(self.names), task_manager=self.manager, log_samples=False
        )
        return found


def cut_otherwise(tokenizer: Any, rows: Sequence[Row]) -> int:
    """Rows that lm_eval, which reads prompt and answer as one text, cuts into other tokens than Retune does."""
    texts = [row.prompt + row.completion for row in rows]
    read = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return sum(ids != row.example.ids for ids, row in zip(read, rows, strict=True))


def published(names: Sequence[str]) -> Published:
    """Tasks of lm_eval, once it is certain that they can be run: their data are in the hub cache then.

    Raises:
        UserError: when one is unknown, runs what a model writes, or cannot be fetched.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    if unknown := sorted(set(names) - set(manager.all_tasks)):
        raise UserError(f"lm_eval has no task {', '.join(unknown)}. `lm-eval ls tasks` lists those that it has.")
    try:
        loaded = manager.load(list(names))["tasks"]
    except ConnectionError as error:
        raise UserError(
            f"the data of {', '.join(names)} cannot be fetched: {str(error).splitlines()[0]}. Run this where the hub "
            "can be reached (once: its cache keeps them), or leave --tasks out."
        ) from None
    except ImportError as error:
        raise UserError(f"{', '.join(names)}: {error}. Install what is missing, or leave the task out.") from None
    except FileNotFoundError:
        raise UserError(
            f"{', '.join(names)}: code from the hub is needed, which Retune does not run. Leave it out."
        ) from None
    if unsafe := sorted(name for name, task in loaded.items() if getattr(task, "UNSAFE_CODE", False)):
        raise UserError(f"{', '.join(unsafe)} would run code that the model writes. Leave it out.")
    return Published(names, manager)
