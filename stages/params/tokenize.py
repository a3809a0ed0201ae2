"""How text becomes rows of tokens."""

from typing import Annotated

from pydantic import Field

from stages.lib.params import Section, Usual, Whole


class TokenizeParams(Section, section="tokenize"):
    """`params.yaml: tokenize`."""

    max_length: Annotated[Whole, Field(ge=8), Usual(512, 2048)]
    pack: bool
