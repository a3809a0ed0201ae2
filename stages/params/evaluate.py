"""How base and tuned model are judged."""

from typing import Annotated, Literal

from pydantic import Field

from stages.lib.params import Real, Section, Usual, Whole


class EvaluateParams(Section, section="evaluate"):
    """`params.yaml: evaluate`."""

    rows: Annotated[Whole, Field(ge=1)] | None
    batch_size: Annotated[Whole, Field(ge=1), Usual(8, 64)]
    max_new_tokens: Annotated[Whole, Field(ge=1), Usual(32, 512)]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    temperature: Annotated[Real, Field(ge=0), Usual(0, 1.2)]
    top_p: Annotated[Real, Field(gt=0, le=1)]
    known_rows: Annotated[Whole, Field(ge=0), Usual(50, 500)]
    resamples: Annotated[Whole, Field(ge=100), Usual(1000, 10000)]
