"""Which model is tuned."""

from typing import Annotated

from pydantic import Field

from stages.lib.params import Section


class BaseParams(Section, section="base"):
    """`params.yaml: base`."""

    name: Annotated[str, Field(min_length=1)]
    revision: str | None
