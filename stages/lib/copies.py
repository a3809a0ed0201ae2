"""Answers that repeat training data word by word.

The measure is that of GPT-3's study of overlaps (Brown et al. 2020, appendix C): thirteen words in a row. What stands
in an answer's own prompt is not counted, since to repeat that may be the task.
"""

from collections.abc import Iterable, Iterator, Sequence

from stages.lib.text_metrics import words

RUN = 13  # words; a character is one where a script has no spaces


def copied(answers: Sequence[str], prompts: Sequence[str], training: Iterable[str]) -> list[bool]:
    """Whether each answer holds a run of words that stands in a training answer, and not in its own prompt.

    Memory grows with the answers, not with the training rows.
    """
    own = [set(_runs(answer)) - set(_runs(prompt)) for answer, prompt in zip(answers, prompts, strict=True)]
    wanted = set[str]().union(*own)
    found = {run for text in training if wanted for run in _runs(text) if run in wanted}
    return [not found.isdisjoint(runs) for runs in own]


def _runs(text: str) -> Iterator[str]:
    said = words(text)
    return (" ".join(said[start : start + RUN]) for start in range(len(said) - RUN + 1))
