"""Which model is tuned."""

from stages.lib.params import Section


class BaseParams(Section, section="base"):
    """`params.yaml: base`."""

    name: str
    revision: str | None
