"""What a training can suffer from: the closed list of names, what each means, and what to do."""

from enum import StrEnum


class Symptom(StrEnum):
    """What a finding is called, the most important first. Meaning and advice are shown in docs/reviewer.md."""

    meaning: str
    advice: str

    def __new__(cls, value: str, meaning: str, advice: str) -> "Symptom":
        name = str.__new__(cls, value)
        name._value_ = value
        name.meaning = meaning
        name.advice = advice
        return name

    DIVERGING = (
        "diverging",
        "the training loss rises at the end",
        "Lower train.lr to a third, or raise train.warmup.",
    )
    EXPLODING = (
        "exploding-gradients",
        "gradients grew or jumped tenfold, beyond train.max_grad_norm",
        "Lower train.lr, or train.max_grad_norm (0.3 … 1 is usual); look for odd rows in the data.",
    )
    OVER_FITTING = (
        "over-fitting",
        "the validation loss rises again after its best, though the training loss does not: rows are learned by heart",
        "Lower train.epochs, or add data that differs. The weights of the best judgement are kept in any case.",
    )
    MEMORISED = (
        "memorised",
        "training rows are known by heart, validation rows are not",
        "Lower train.epochs, add data, or make the update smaller (train.lora.r).",
    )
    FLAT = (
        "flat",
        "the training loss hardly moved",
        "Raise train.lr threefold if it is below what is usual (1e-4 … 5e-4 for LoRA, 1e-5 … 5e-5 for full). Else look "
        "at the data (does the answer follow from the question?), then at capacity (train.lora.r, a larger base).",
    )
    SPIKING = (
        "spiking",
        "the training loss jumps again and again, and comes back",
        "Lower train.lr, raise train.warmup or train.accumulation; look for odd rows in the data.",
    )
    STILL_FALLING = (
        "still-falling",
        "the validation loss was still falling when training ended",
        "Raise train.epochs, or train.max_steps where that ended the run.",
    )
    NO_VALIDATION = (
        "no-validation",
        "there are no validation rows, so over-fitting cannot be seen and the last step was kept",
        "Set split.validation to 0.05 … 0.1, and have rows enough that some fall to it.",
    )
    FEW_JUDGEMENTS = (
        "few-judgements",
        "validation rows were judged too few times to tell a trend",
        "Raise train.evals_per_epoch, or train.epochs.",
    )
    TOO_SHORT = (
        "too-short",
        "too few steps to tell a trend of the training loss from its scatter",
        "If it was a trial, go on. Else add data, raise train.epochs or train.max_steps, or lower train.accumulation.",
    )
    TOO_NOISY = (
        "too-noisy",
        "single steps scatter so much that it cannot be told whether the training loss moved",
        "Raise train.accumulation (more rows in each step), or train longer.",
    )
    CONVERGED = (
        "converged",
        "the validation loss fell and has flattened: as it should be",
        "Nothing to mend. More epochs would gain little; other data, or another train.lr or train.lora.r, may.",
    )
    CLIPPED = (
        "clipped",
        "nearly every step is cut to train.max_grad_norm",
        "While the loss falls smoothly, this does no harm; to cut outliers only, raise train.max_grad_norm above the "
        "median. Where it does not, lower train.lr.",
    )
    PADDING = (
        "padding",
        "much of the work is done on padding",
        "Let examples share a row (tokenize.pack: true, a larger tokenize.max_length), or lower train.batch_size and "
        "raise train.accumulation by the same factor.",
    )
    DROPPED = (
        "dropped-rows",
        "training rows were left out, because they have more tokens than tokenize.max_length",
        "Raise tokenize.max_length, or shorten the rows (data/packed/rejected.jsonl has them).",
    )
