"""How a record becomes the text that the model reads."""

from stages.lib.params import Section


class FormatParams(Section, section="format"):
    """`params.yaml: format`."""

    template: str
    system: str | None
