"""A text classifier of the user's own, run here: an ONNX export, as many on the hub have one, with its tokenizer.

onnxruntime is no dependency of the pipeline; `pip install -c constraints.txt --group classifier` brings it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib import artifacts
from stages.lib.errors import UserError

_FILES = (("model.onnx", "onnx/model.onnx"), ("tokenizer.json",), ("config.json",))  # each where the hub has it, too
_LONGEST = 512  # tokens that are read at once, or fewer where config.json says so


@dataclass(frozen=True)
class Classifier:
    """The files of a classifier, and a hash of what is in them."""

    model: Path
    tokenizer: Path
    config: Path
    digest: str

    def labels(self) -> list[str]:
        """What it may call a text."""
        return _loaded(self).labels

    def version(self) -> str:
        """What a judgement depends on besides the text: the files, and the libraries that read them."""
        import onnxruntime
        import tokenizers

        return f"{self.digest} {onnxruntime.__version__} {tokenizers.__version__}"

    def judge(self, texts: Iterable[str]) -> dict[str, float]:
        """The probability of each label, of the text that has most of it.

        Each text is judged by itself, and one that is longer than the model reads piece by piece: what a text is
        called never depends on its neighbours.
        """
        worst = np.max([_worst(self, text) for text in texts], axis=0)
        return dict(zip(self.labels(), worst.tolist(), strict=True))

    def calls(self, texts: Iterable[str], labels: Iterable[str], threshold: float) -> dict[str, float]:
        """Those of `labels` that it gives to the texts, each with its probability, which is `threshold` or more."""
        probabilities = self.judge(texts)
        return {label: probabilities[label] for label in labels if probabilities[label] >= threshold}


def find(folder: Path, labels: Iterable[str], named: str) -> Classifier:
    """The classifier in a folder, ready to judge.

    Args:
        folder: where its files are.
        labels: those that will be asked for.
        named: the params that set both: `params.yaml: validate.unsafe`.

    Raises:
        UserError: a file or onnxruntime is missing, a file cannot be used, or it does not know a label.
    """
    asked_by = f"{named}.classifier"
    paths = []
    for names in _FILES:
        found = [path for name in names if (path := folder / name).is_file()]
        if not found:
            raise UserError(f"{asked_by} is {folder}, but there is no {names[0]}. Export the classifier to ONNX there.")
        paths.append(found[0])
    digests = [artifacts.sha256(path) for path in paths]
    classifier = Classifier(paths[0], paths[1], paths[2], "".join(digests))
    try:
        classifier.judge(["a text"])
    except ImportError:
        raise UserError(
            f"{asked_by} needs onnxruntime, which is not installed. Run "
            "`pip install -c constraints.txt --group classifier`, or set it to null."
        ) from None
    except Exception as error:  # onnxruntime and tokenizers have no class of their own for what a file may hold
        raise UserError(f"{asked_by}: {folder} cannot be used: {(str(error) or repr(error)).splitlines()[0]}") from None
    known = classifier.labels()
    for label in labels:
        if label not in known:
            raise UserError(f"{named}.labels names {label}, but the classifier knows {', '.join(known)}.")
    return classifier


@dataclass(frozen=True)
class _Model:
    session: Any
    tokenizer: Any
    labels: list[str]
    are_exclusive: bool

    def pieces(self, text: str) -> list[Any]:
        encoding = self.tokenizer.encode(text)
        return [encoding, *encoding.overflowing]

    def probabilities(self, piece: Any) -> NDArray[np.float64]:
        """One for each label."""
        given = {"input_ids": piece.ids, "attention_mask": piece.attention_mask, "token_type_ids": piece.type_ids}
        names = [wanted.name for wanted in self.session.get_inputs()]
        logits = self.session.run(None, {name: np.array([given[name]], np.int64) for name in names})[0][0]
        powers = np.exp(np.clip(logits.astype(np.float64), -500, 500))
        return powers / powers.sum() if self.are_exclusive else powers / (1 + powers)


@lru_cache(maxsize=1024)  # a system text stands in thousands of rows, and so does an answer of one word
def _worst(classifier: Classifier, text: str) -> NDArray[np.float64]:
    """Of each label, its highest probability among the pieces of a text."""
    model = _loaded(classifier)
    return np.max([model.probabilities(piece) for piece in model.pieces(text)], axis=0)


@cache
def _loaded(classifier: Classifier) -> _Model:
    import onnxruntime  # where no classifier is set, nobody needs these
    from tokenizers import Tokenizer

    config = json.loads(classifier.config.read_text(encoding="utf-8"))
    names = config.get("id2label")
    if not names:
        raise ValueError("config.json names no label (id2label)")
    labels = [names[number] for number in sorted(names, key=int)]
    tokenizer = Tokenizer.from_file(str(classifier.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(_LONGEST, config.get("max_position_embeddings", _LONGEST)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # rows are judged in several processes already
    session = onnxruntime.InferenceSession(str(classifier.model), options, providers=["CPUExecutionProvider"])
    is_one_of_many = config.get("problem_type") != "multi_label_classification" and len(labels) > 1
    return _Model(session, tokenizer, labels, is_one_of_many)
