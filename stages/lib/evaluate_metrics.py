"""Our text metrics as `evaluate.Metric`s, for notebooks and other trainers: they need no network.

`evaluate.load` fetches even the code of a metric from the hub; these classes are used without it:
`Rouge().compute(predictions=[…], references=[…])`, or several by `evaluate.combine([Rouge(), Chrf()])`.
"""

from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value

from stages.lib import text_metrics


class _TextMetric(evaluate.Metric):
    """One answer against one reference, both texts."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value("string"), "references": Value("string")})
        return evaluate.MetricInfo(
            description=(self.__doc__ or "").strip(), citation="", inputs_description="", features=features
        )


class ExactMatch(_TextMetric):
    """Share of answers that are the reference, but for width and blanks."""

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return {"exact_match": float(np.mean(list(map(text_metrics.exact_match, predictions, references))))}


class Rouge(_TextMetric):
    """ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum, from 0 to 1, means over rows; words as Retune cuts them."""

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        scores = np.array(list(map(text_metrics.rouge, predictions, references)))
        return dict(zip(text_metrics.Rouge._fields, map(float, scores.mean(axis=0)), strict=True))


class _CorpusScore(_TextMetric):
    """A score of sacrebleu, with the signature by which it is quoted."""

    name_of_score: str
    scorer: text_metrics.CorpusMetric

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        counts = self.scorer.counts(predictions, references).sum(axis=0)
        return {self.name_of_score: float(self.scorer.score(counts)), "signature": self.scorer.signature}


class Bleu(_CorpusScore):
    """BLEU over the whole corpus, from 0 to 100."""

    name_of_score, scorer = "bleu", text_metrics.bleu


class Chrf(_CorpusScore):
    """chrF over the whole corpus, from 0 to 100."""

    name_of_score, scorer = "chrf", text_metrics.chrf
