"""Base against tuned, in words: what a difference of two figures means, and no more than the figures bear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.lib import page
from stages.lib.headline import headline
from stages.lib.paired import Difference
from stages.lib.statistics import LEVEL


@dataclass(frozen=True)
class Metric:
    """A figure of reports/eval.json and how it is worded."""

    name: str
    label: str
    digits: int  # after the point
    lower_is_better: bool = False
    is_share: bool = False  # shown in percent

    def show(self, value: float | None) -> str:
        """The figure itself."""
        return page.percent(value) if self.is_share else page.fixed(value, self.digits)

    def show_change(self, value: float) -> str:
        """A difference of two such figures, with its sign; shares differ by percentage points."""
        text = page.fixed(value * 100 if self.is_share else value, self.digits)
        return text if text.startswith(page.MINUS) or not text.strip("0.") else f"+{text}"

    @property
    def unit(self) -> str:
        """What a difference is counted in, where that is not the figure itself."""
        return f"{page.NO_BREAK}points" if self.is_share else ""


METRICS = (
    Metric("exact_match", "Exact match", 1, is_share=True),
    Metric("rouge1", "ROUGE-1", 3),
    Metric("rouge2", "ROUGE-2", 3),
    Metric("rougeL", "ROUGE-L", 3),
    Metric("rougeLsum", "ROUGE-Lsum", 3),
    Metric("bleu", "BLEU", 1),
    Metric("chrf", "chrF", 1),
    Metric("perplexity", "Perplexity", 2, lower_is_better=True),
    Metric("bits_per_byte", "Bits per byte", 3, lower_is_better=True),
    Metric("calibration_error", "Calibration error", 3, lower_is_better=True),
    Metric("prompt_strict", "Rows with all constraints kept", 1, is_share=True),
    Metric("prompt_loose", "Rows with all constraints kept, loosely", 1, is_share=True),
    Metric("instruction_strict", "Constraints kept", 1, is_share=True),
    Metric("instruction_loose", "Constraints kept, loosely", 1, is_share=True),
    Metric("copied", "Answers that copy from training", 1, lower_is_better=True, is_share=True),
)


@dataclass(frozen=True)
class Comparison:
    """Both models in one metric, with the 95 % interval of the difference where there is one."""

    metric: Metric
    base: float
    tuned: float
    low: float | None = None
    high: float | None = None
    p: float | None = None  # corrected, where the metric is one question of several; None where nobody can tell
    is_tested: bool = True  # whether somebody asked how much of the difference may be chance

    @classmethod
    def of(cls, metric: Metric, found: Difference) -> "Comparison":
        """Two models that were compared here and now."""
        low, high = found.bounds or (None, None)
        return cls(metric, *found.values, low, high, found.p)

    @property
    def difference(self) -> float:
        """Tuned minus base."""
        return self.tuned - self.base

    @property
    def change(self) -> str:
        """`+87.1 points`."""
        return self.metric.show_change(self.difference) + self.metric.unit

    @property
    def interval(self) -> str:
        """`+82.0 … +91.8`; nothing where there is none, or all resamples agree, which is not certainty."""
        if self.low is None or self.high is None or self.low == self.high:
            return ""
        return f"{self.metric.show_change(self.low)}{page.NO_BREAK}…{page.NO_BREAK}{self.metric.show_change(self.high)}"

    @property
    def judgement(self) -> str:
        """`better`, `worse`, `same`, or `unclear` where it may be chance, or nobody can tell."""
        if self.difference == 0:
            return "same"
        if self.is_tested and (self.p is None or self.p >= LEVEL):
            return "unclear"
        return "better" if (self.difference < 0) == self.metric.lower_is_better else "worse"


def compare(
    base: Mapping[str, Any], tuned: Mapping[str, Any], intervals: Mapping[str, Any], p: Mapping[str, float]
) -> list[Comparison]:
    """Every known metric that both models have, in the order of METRICS; intervals and p are by metric, too."""
    return [
        Comparison(
            metric,
            base[metric.name],
            tuned[metric.name],
            intervals.get(metric.name, {}).get("low"),
            intervals.get(metric.name, {}).get("high"),
            p.get(metric.name),
        )
        for metric in METRICS
        if base.get(metric.name) is not None and tuned.get(metric.name) is not None
    ]


def verdict(comparisons: Sequence[Comparison], rows: int) -> list[str]:
    """What happened, in one sentence a metric.

    Exact match speaks first; where no answer of either model ever matches (free text), chrF does. Bits per byte, which
    judges the likelihood of the references and no generated text, is the second witness.
    """
    found = {comparison.metric.name: comparison for comparison in comparisons}
    exact = found.get("exact_match")
    first = found.get(headline((exact.base, exact.tuned) if exact else ()), exact)
    witnesses = [witness for witness in (first, found.get("bits_per_byte")) if witness is not None]
    if not witnesses:
        return [f"{rows:,} held-out answers were judged, but by no metric that this page can word."]
    places = [f" on {rows:,} held-out answers", ""]
    return [_sentence(witness, place) for witness, place in zip(witnesses, places, strict=False)]


def _sentence(comparison: Comparison, place: str) -> str:
    metric = comparison.metric
    name = f"{metric.label} (lower is better)" if metric.lower_is_better else metric.label
    if comparison.difference == 0:
        return f"{name} stayed at {metric.show(comparison.tuned)}{place}."
    moved = "rose" if comparison.difference > 0 else "fell"
    certainty = f"95{page.NO_BREAK}% interval {comparison.interval}" if comparison.interval else "no interval"
    chance = ""
    if comparison.judgement == "unclear":
        p = f" (p{page.NO_BREAK}={page.NO_BREAK}{comparison.p:.2g})" if comparison.p is not None else ""
        chance = f" This may be chance{p}."
    return (
        f"{name} {moved} from {metric.show(comparison.base)} to {metric.show(comparison.tuned)}{place} "
        f"(difference {comparison.change}, {certainty}).{chance}"
    )
