"""Which model is tuned."""

from pydantic import field_validator

from stages.lib.params import Section


class BaseParams(Section, section="base"):
    """`params.yaml: base`."""

    name: str
    revision: str | None

    @field_validator("name")
    @classmethod
    def _something_is_named(cls, name: str) -> str:
        if not name.strip():
            raise ValueError("a rule: a hub id, a folder, a .gguf file or package:MODULE/FILE.gguf is needed")
        return name
