"""What the report page shows."""

from typing import Annotated

from pydantic import Field

from stages.lib.params import Section, Usual, Whole


class ReportParams(Section, section="report"):
    """`params.yaml: report`."""

    answers: Annotated[Whole, Field(ge=0), Usual(10, 50)]
