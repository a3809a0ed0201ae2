"""Records that are unsafe to learn from: by a lexicon, and by a classifier where one is set."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stages.lib import classifier, lexicon
from stages.lib.classifier import Classifier
from stages.lib.lexicon import Lexicon
from stages.lib.records import Record
from stages.lib.rejects import Code, Reject
from stages.params.validate import UnsafeParams

_NAMED = "params.yaml: validate.unsafe"
_CALLS = "the classifier calls the row"


class Finding(NamedTuple):
    """What is unsafe in a record, and the sentence that says so."""

    kind: str
    reason: str
    detail: dict[str, Any]


@dataclass(frozen=True)
class Watch:
    """What is looked for."""

    params: UnsafeParams
    lexicon: Lexicon
    classifier: Classifier | None

    @classmethod
    def over(cls, params: UnsafeParams) -> "Watch":
        """Read the lexicon and find the classifier.

        Raises:
            UserError: one of them is not there or cannot be used, or the classifier does not know a label.
        """
        words = lexicon.read(Path(params.lexicon), f"{_NAMED}.lexicon")
        if params.classifier is None:
            return cls(params, words, None)
        return cls(params, words, classifier.find(Path(params.classifier), params.labels, _NAMED))

    def find(self, record: Record) -> Iterator[Finding]:
        """What is unsafe: of each kind the first."""
        seen = set[str]()
        for finding in self._phrases(record):
            seen.add(finding.kind)
            yield finding
        if self.classifier is None:
            return
        texts = [message.content for message in record.messages]
        for label, probability in self.classifier.calls(texts, self.params.labels, self.params.threshold).items():
            if label not in seen:
                rounded = round(probability, 3)
                reason = f"{_CALLS} {label} (probability {rounded:.2f})"
                yield Finding(label, reason, {"kind": label, "probability": rounded})

    def _phrases(self, record: Record) -> Iterator[Finding]:
        seen = set[str]()
        for phrase in self.lexicon.find("\n".join([message.plain for message in record.messages])):
            if phrase.kind not in seen:
                seen.add(phrase.kind)
                detail = {"kind": phrase.kind, "phrase": phrase.text}
                yield Finding(phrase.kind, f'the row holds "{phrase.text}" ({phrase.kind})', detail)

    def reasons(self, tagged: Record) -> Iterator[str]:
        """Why `judge` tagged a record. The classifier, which takes its time, is not asked again."""
        found = {finding.kind: finding.reason for finding in self._phrases(tagged)}
        yield from found.values()
        for label in self.params.labels if self.classifier else ():
            if label not in found and f"{Code.UNSAFE}:{label}" in tagged.tags:
                yield f"{_CALLS} {label}"

    def judge(self, record: Record) -> Record | Reject:
        """Tag or refuse a record that is unsafe, as the params say."""
        found = list(self.find(record))
        if not found:
            return record
        if self.params.action == "drop":
            return Reject(Code.UNSAFE, found[0].reason, found[0].detail)
        return record.tagged(f"{Code.UNSAFE}:{finding.kind}" for finding in found)

    def version(self) -> str:
        """What a judgement depends on besides the record."""
        return f"{self.lexicon} {self.classifier and self.classifier.version()}"
