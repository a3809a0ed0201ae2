"""What a raw row must be to be kept."""

from typing import Annotated, Literal

from pydantic import Field

from stages.lib.params import Group, Real, Section, Share, Usual, Whole

Action = Literal["flag", "redact", "drop"]
Conflicts = Literal["keep-all", "first", "newest", "fail"]


class UnsafeParams(Group):
    """What is unsafe to learn, and what becomes of it."""

    action: Literal["flag", "drop"]
    lexicon: str
    classifier: str | None
    labels: Annotated[list[str], Field(min_length=1)]
    threshold: Annotated[Real, Field(gt=0, le=1), Usual(0.3, 0.9)]


class ValidateParams(Section, section="validate"):
    """`params.yaml: validate`."""

    columns: dict[str, str]
    placeholders: list[str]
    refusals: Literal["flag", "drop"]
    max_repetition: Annotated[Share, Usual(0.5, 0.95)]
    min_answer_chars: Annotated[Whole, Field(ge=1), Usual(1, 20)]
    max_chars: Annotated[Whole, Field(ge=1), Usual(2000, 32000)]
    near_duplicate: Annotated[Real, Field(gt=0, le=1), Usual(0.6, 0.9)]
    conflicting_answers: Conflicts
    secrets: Action
    personal_data: Action
    unsafe: UnsafeParams
    max_reject_share: Annotated[Share, Usual(0.05, 0.5)]
