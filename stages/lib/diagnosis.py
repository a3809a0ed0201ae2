"""What the curves of a training say, in words that a newcomer understands: what is the matter, and what to do.

A finding has a closed name, a sentence with its figures, and advice that names params. Each rule looks for one thing;
where a run is too short or its steps scatter too much, that is what is said. The same curves give the same words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.lib.plural import agree, counted
from stages.lib.symptoms import Symptom
from stages.lib.trends import Values, change, spikes

# Three stretches of ten: with fewer the ranks of `change` tell nothing that is sure.
SHORT = 30  # steps
STRETCH = 10  # steps, the least that is compared; the end of a run is its last tenth, but no less than this
STARTS = (3, 10, 30)  # steps
FEW = 3  # judgements on validation rows: two make a line, but no trend
# L. Prechelt ("Early stopping, but when?", 1998) stops when validation is 5 % above its best, the widest margin that he
# found worth waiting for. What moves less is called flat, in both directions.
MOVED = 0.05
# nats a token, half a percent of a token's probability: where all is nearly known, a twentieth of it is nothing
MATTERS = 0.005
FLAT = 0.10  # a training loss that surely moved by no more than a tenth taught next to nothing
REBOUND = 0.10  # a rise of the training loss at the end that is larger than the step from flat
JUMP = 2.0  # times the loss around: a batch of another kind is rarely twice as hard as its neighbours' median
EXPLODED = 10.0  # times the norm before: norms of a healthy run wander two- or threefold
OFTEN = 2  # one spike is an odd batch, two are a habit
KNOWN = 0.05  # nats a token: each token of the answer is foreseen with a probability of 95 %
UNKNOWN = 0.10  # nats a token, twice KNOWN: 90 %
NEARLY_ALL = 0.9  # of the steps are clipped: what should hold back outliers has become the length of every step
PADDED = 0.2  # of the positions: a fifth of the time that training takes
LOST = 0.01  # of the training rows: one in a hundred


@dataclass(frozen=True)
class Facts:
    """What the curves do not tell."""

    method: str
    lr: float  # peak rate
    max_grad_norm: float
    epochs: float  # that were trained, not that were planned
    examples: int  # training rows
    dropped: int  # training rows left out for their length
    max_length: int  # tokens
    padding: float  # share of the positions that training computes


@dataclass(frozen=True)
class Curves:
    """The curves as arrays: one value a step, and one a judgement on the validation rows."""

    steps: NDArray[np.int64]
    losses: Values  # nats a trained token
    norms: Values  # of the gradients, before they are clipped; steps without a finite one are left out
    norm_steps: NDArray[np.int64]
    judged_at: NDArray[np.int64]
    judged: Values  # nats a trained token

    @classmethod
    def of(cls, training: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]) -> "Curves":
        """From the rows of reports/train_loss.csv and reports/eval_loss.csv, figures as numbers."""
        steps, losses = _column(training, "step", int), _column(training, "loss", float)
        norms = _column(training, "grad_norm", float)
        is_finite = np.isfinite(norms)  # in fp16 an overflow is skipped, and no fault
        return cls(
            steps,
            losses,
            norms[is_finite],
            steps[is_finite],
            _column(validation, "step", int),
            _column(validation, "loss", float),
        )

    @property
    def are_short(self) -> bool:
        """Whether there are too few steps to judge the training loss by."""
        return len(self.losses) < SHORT

    @property
    def best(self) -> int:
        """The place of the best judgement."""
        return int(np.argmin(self.judged))


def _column(rows: Sequence[Mapping[str, Any]], name: str, kind: type) -> NDArray[Any]:
    return np.array([row[name] for row in rows], dtype=np.int64 if kind is int else np.float64)


@dataclass(frozen=True)
class Finding:
    """One thing that the curves say."""

    name: Symptom
    fact: str

    def row(self) -> dict[str, str]:
        """As it stands in reports/train.json."""
        return {"name": str(self.name), "fact": self.fact, "advice": self.name.advice}


def diagnose(curves: Curves, facts: Facts) -> list[Finding]:
    """What is to be said of a training, the most important first; never nothing."""
    said = {name: rule(curves, facts) for name, rule in RULES.items()}
    return [Finding(name, fact) for name in Symptom if (fact := said[name])]


def report(findings: Sequence[Finding]) -> dict[str, Any]:
    """The `diagnosis` of reports/train.json.

    DVC's tables show texts and pass over lists. Sentences would make them hundreds of columns wide; names fit in.
    """
    names = ", ".join(finding.name for finding in findings)
    return {"names": names, "findings": [finding.row() for finding in findings]}


def padding(lengths: Sequence[int] | NDArray[Any], batch_size: int, width: int | None = None) -> float:
    """The share of padding, when rows of these lengths are batched at random and padded to `width` or the longest.

    Exact in expectation: the longest of k rows out of n is the i-th shortest or shorter with the probability
    C(i, k) / C(n, k).
    """
    rows = np.sort(np.asarray(lengths, dtype=np.float64))
    return float(1 - rows.mean() / (width or _longest(rows, min(batch_size, len(rows)))))


def _longest(rows: Values, size: int) -> float:
    """The expected longest of `size` of these lengths, which are sorted."""
    count = len(rows)
    rank = np.arange(1, count + 1)
    at_most = np.ones(count)
    for taken in range(size):
        at_most *= np.clip(rank - taken, 0, None) / (count - taken)
    return float(rows @ np.diff(at_most, prepend=0.0))


def _diverging(curves: Curves, facts: Facts) -> str:
    if curves.are_short:
        return ""
    return _risen("The training loss", curves.steps, curves.losses, times=1 + REBOUND, least=MATTERS)


def _risen(what: str, steps: NDArray[np.int64], values: Values, times: float, least: float = 0.0) -> str:
    """Say by how much the end of a curve surely lies above one of the thirds before it; nothing if it does not."""
    tail = values[_end(values)]
    thirds = np.array_split(np.arange(len(values) - len(tail)), 3)
    lowest = min(thirds, key=lambda third: float(np.median(values[third])))
    before, after = float(np.median(values[lowest])), float(np.median(tail))
    found = change(values[lowest], tail)
    if not (found.rose and found.ratio >= times and after - before > least):
        return ""
    return (
        f"{what} rose from {_figure(before)} (median of steps {steps[lowest[0]]}–{steps[lowest[-1]]}) to "
        f"{_figure(after)} (of the last {len(tail)})."
    )


def _exploding(curves: Curves, facts: Facts) -> str:
    if len(curves.norms) < SHORT:
        return ""
    is_clipped = np.median(curves.norms[_end(curves.norms)]) > facts.max_grad_norm
    risen = _risen("The gradients' norm", curves.norm_steps, curves.norms, times=EXPLODED)
    if risen and is_clipped:
        return risen
    places = [place for place in spikes(curves.norms, EXPLODED) if curves.norms[place] > facts.max_grad_norm]
    if len(places) < OFTEN:
        return ""
    return (
        f"The gradients' norm jumped to more than {EXPLODED:.0f} times that of the steps around it in {len(places)} "
        f"places; {_tallest(curves.norm_steps, curves.norms, places)}."
    )


def _over_fitting(curves: Curves, facts: Facts) -> str:
    if not _has_risen_again(curves) or _diverging(curves, facts):
        return ""
    best, later = curves.best, len(curves.judged) - 1 - curves.best
    epoch = _figure(facts.epochs * curves.judged_at[best] / curves.steps[-1])
    alone = " One judgement alone can be chance." if later == 1 else ""
    return (
        f"The validation loss was lowest at step {curves.judged_at[best]} ({_figure(curves.judged[best])}, at "
        f"epoch {epoch} of {_figure(facts.epochs)}) and rose to {_figure(curves.judged[-1])} by step "
        f"{curves.judged_at[-1]}{_meanwhile(curves)}.{alone}"
    )


def _has_risen_again(curves: Curves) -> bool:
    return len(curves.judged) >= FEW and _is_lower(curves.judged[curves.best], curves.judged[-1])


def _is_lower(loss: float, than: float) -> bool:
    """Whether one judgement is better than another by what matters; both are of the same rows."""
    return bool(than - loss >= max(MOVED * loss, MATTERS))


def _meanwhile(curves: Curves) -> str:
    """What the training loss did after the best judgement, where it surely fell on."""
    turn = int(np.searchsorted(curves.steps, curves.judged_at[curves.best], side="right"))
    after = curves.losses[turn:]
    before = curves.losses[max(turn - len(after), 0) : turn]
    if min(len(before), len(after)) < STRETCH or not change(before, after).fell:
        return ""
    medians = [float(np.median(part)) for part in (before, after)]
    return f", while the training loss fell on from {_figure(medians[0])} to {_figure(medians[1])} (medians)"


def _memorised(curves: Curves, facts: Facts) -> str:
    end = curves.losses[_end(curves.losses)]
    is_second_pass = facts.epochs * (1 - len(end) / len(curves.losses)) >= 1
    if not is_second_pass or not len(curves.judged):
        return ""
    if end.mean() >= KNOWN or curves.judged[-1] <= UNKNOWN:
        return ""
    return (
        f"Over the last {len(end)} steps the training loss was {_figure(end.mean())} nats a token, on validation rows "
        f"{_figure(curves.judged[-1])}: after {_figure(facts.epochs)} epochs the training rows are known by heart."
    )


def _flat(curves: Curves, facts: Facts) -> str:
    if not _is_flat(curves):
        return ""
    first, last = _outer_thirds(curves.losses)
    return (
        f"The training loss hardly moved at a rate of {facts.lr:g} with {facts.method}: {_figure(np.median(first))} "
        f"over the first third of {len(curves.losses)} steps, {_figure(np.median(last))} over the last (medians)."
    )


def _is_flat(curves: Curves) -> bool:
    """Neither from third to third nor from the first steps, in which many a run learns most.

    A loss that was near zero from the start is flat, too, but nothing is the matter with it.
    """
    if curves.are_short or _has_learned(curves) or _has_risen_again(curves):
        return False
    first, last = _outer_thirds(curves.losses)
    starts = [change(start, last) for start in _starts(curves.losses) if len(start) >= STRETCH]
    moved = not change(first, last).within(FLAT) or any(start.ratio <= 1 - FLAT for start in starts)
    return not moved and bool(np.median(last) >= KNOWN)


def _has_learned(curves: Curves) -> bool:
    """Whether a loss surely fell by what matters, on validation or on training rows."""
    if len(curves.judged) >= FEW and _is_lower(curves.judged.min(), curves.judged[0]):
        return True
    if curves.are_short:
        return False
    first, last = _outer_thirds(curves.losses)
    found = [change(start, last) for start in (*_starts(curves.losses), first)]
    return any(one.fell and one.low <= 1 - FLAT for one in found)


def _starts(values: Values) -> list[Values]:
    """The first steps, fewer and more: most of the fall can lie in the first three, while the rate still climbs."""
    return [values[:size] for size in STARTS if size <= len(values) // 3]


def _end(values: Values) -> slice:
    """The last tenth of a curve."""
    return slice(-max(STRETCH, len(values) // 10), None)


def _outer_thirds(values: Values) -> tuple[Values, Values]:
    first, _, last = np.array_split(values, 3)
    return first, last


def _spiking(curves: Curves, facts: Facts) -> str:
    places = [place for place in spikes(curves.losses, JUMP) if curves.losses[place] > UNKNOWN]
    if len(places) < OFTEN:
        return ""
    return (
        f"The training loss jumped to more than {JUMP:.0f} times that of the steps around it in {len(places)} places; "
        f"{_tallest(curves.steps, curves.losses, places)}."
    )


def _tallest(steps: NDArray[np.int64], values: Values, places: Sequence[int]) -> str:
    tallest = max(places, key=lambda place: float(values[place]))
    return f"the tallest is {_figure(values[tallest])} at step {steps[tallest]}"


def _still_falling(curves: Curves, facts: Facts) -> str:
    if not _falls_on(curves) or _diverging(curves, facts):
        return ""
    earlier = _two_thirds(curves)
    share = 1 - curves.judged[-1] / curves.judged[earlier]
    return (
        f"The validation loss was still falling: {_judgement(curves, earlier)}, {_judgement(curves, -1)} "
        f"({share:.0%} lower), at epoch {_figure(facts.epochs)}."
    )


def _falls_on(curves: Curves) -> bool:
    if len(curves.judged) < FEW or _has_risen_again(curves):
        return False
    return _is_best_at_the_end(curves) and _is_lower(curves.judged[-1], curves.judged[_two_thirds(curves)])


def _is_best_at_the_end(curves: Curves) -> bool:
    """Whether the best judgement is one of the last tenth of the time: where there are many, they tremble."""
    return bool(10 * curves.judged_at[curves.best] >= 9 * curves.judged_at[-1])


def _two_thirds(curves: Curves) -> int:
    """The place of the last judgement in the first two thirds of the time; judgements come at even distances."""
    return max(int(np.searchsorted(3 * curves.judged_at, 2 * curves.judged_at[-1], side="right")) - 1, 0)


def _judgement(curves: Curves, place: int) -> str:
    return f"{_figure(curves.judged[place])} at step {curves.judged_at[place]}"


def _no_validation(curves: Curves, facts: Facts) -> str:
    if len(curves.judged):
        return ""
    closing = curves.losses[_end(curves.losses)].mean()
    doubt = f" A training loss of {_figure(closing)} at the end may be learning by heart." if closing < KNOWN else ""
    return f"There are no validation rows: whether the model learned or memorised cannot be told.{doubt}"


def _few_judgements(curves: Curves, facts: Facts) -> str:
    number = len(curves.judged)
    if not 0 < number < FEW:
        return ""
    losses = " and ".join(_figure(loss) for loss in curves.judged)
    return f"Validation rows were judged {'once' if number == 1 else 'twice'} ({losses}), too few to tell a trend."


def _too_short(curves: Curves, facts: Facts) -> str:
    number = counted(len(curves.losses), "step")
    return f"{number}: too few to tell a trend of the training loss from its scatter." if curves.are_short else ""


def _too_noisy(curves: Curves, facts: Facts) -> str:
    if curves.are_short or _has_learned(curves) or _is_flat(curves) or _has_risen_again(curves):
        return ""
    first, last = _outer_thirds(curves.losses)
    if np.median(last) < KNOWN or _diverging(curves, facts):
        return ""
    found = change(first, last)
    return (
        f"From the first third of {len(curves.losses)} steps to the last the training loss changed by anything from "
        f"{found.low - 1:+.0%} to {found.high - 1:+.0%}: single steps scatter too much to say more."
    )


def _converged(curves: Curves, facts: Facts) -> str:
    if len(curves.judged) < FEW or _has_risen_again(curves) or _falls_on(curves) or _diverging(curves, facts):
        return ""
    if not _has_learned(curves) and np.median(curves.losses[_end(curves.losses)]) >= KNOWN:
        return ""
    since = _judgement(curves, _two_thirds(curves) if _is_best_at_the_end(curves) else curves.best)
    return f"The validation loss has flattened: {since}, {_judgement(curves, -1)}."


def _clipped(curves: Curves, facts: Facts) -> str:
    number = int((curves.norms > facts.max_grad_norm).sum())
    if len(curves.norms) < STRETCH or number < NEARLY_ALL * len(curves.norms):
        return ""
    return (
        f"In {number:,} of {counted(len(curves.norms), 'step')} the gradient was longer than train.max_grad_norm "
        f"({facts.max_grad_norm:g}) and was cut to it; the median norm is {_figure(np.median(curves.norms))}."
    )


def _padding(curves: Curves, facts: Facts) -> str:
    if facts.padding < PADDED:
        return ""
    return f"About {facts.padding:.0%} of what training computes is padding, tokens without a meaning."


def _dropped(curves: Curves, facts: Facts) -> str:
    rows = facts.examples + facts.dropped
    if facts.dropped < LOST * rows:
        return ""
    return (
        f"{facts.dropped:,} of {counted(rows, 'training row')} ({facts.dropped / rows:.1%}) "
        f"{agree(facts.dropped, 'was', 'were')} left out: longer than {facts.max_length} tokens."
    )


def _figure(number: float) -> str:
    """Three digits that say something, and no exponent where none is needed."""
    return f"{number:.3g}" if 1e-4 <= abs(number) < 1000 else f"{number:.2e}" if number else "0"


RULES: dict[Symptom, Callable[[Curves, Facts], str]] = {
    Symptom.DIVERGING: _diverging,
    Symptom.EXPLODING: _exploding,
    Symptom.OVER_FITTING: _over_fitting,
    Symptom.MEMORISED: _memorised,
    Symptom.FLAT: _flat,
    Symptom.SPIKING: _spiking,
    Symptom.STILL_FALLING: _still_falling,
    Symptom.NO_VALIDATION: _no_validation,
    Symptom.FEW_JUDGEMENTS: _few_judgements,
    Symptom.TOO_SHORT: _too_short,
    Symptom.TOO_NOISY: _too_noisy,
    Symptom.CONVERGED: _converged,
    Symptom.CLIPPED: _clipped,
    Symptom.PADDING: _padding,
    Symptom.DROPPED: _dropped,
}
