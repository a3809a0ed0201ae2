"""Charts as static inline SVG: a Vega-Lite specification in, drawn by vl-convert without a browser or the network.

The specifications are written as plain Vega-Lite (https://vega.github.io/vega-lite/docs/). Colours are the page's CSS
variables, so one drawing serves the light page, the dark page and paper.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import vl_convert
from markupsafe import Markup

from stages.lib.plural import agree, counted

VEGA_LITE = "6.4"  # named, so that a newer vl-convert does not change the drawing by itself
MOST_POINTS = 400  # a line needs no more on a page, and a long training would make it weigh megabytes

RATE = "datum.value ? format(datum.value, '~e') : '0'"  # 5e-4, as in params.yaml

# vl-convert measures labels with this font, which it carries itself: the layout is the same on every machine.
FONT = "Liberation Sans"
STYLE = {
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "domainColor": "var(--line)",
        "gridColor": "var(--grid)",
        "tickColor": "var(--line)",
        "labelColor": "var(--quiet)",
        "labelFontSize": 12,
        "titleColor": "var(--quiet)",
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {
        "labelColor": "var(--ink)",
        "labelFontSize": 12,
        "orient": "top",
        "offset": 6,
        "symbolType": "stroke",
        "symbolStrokeWidth": 2,
        "symbolSize": 500,
    },
}


@dataclass(frozen=True)
class Point:
    """A figure at an optimizer step."""

    step: float
    value: float


@dataclass(frozen=True)
class Bin:
    """How many rows have at least `low` and fewer than `high` tokens."""

    low: int
    high: int
    rows: int


def losses(name: str, training: Sequence[Point], validation: Sequence[Point], best_step: float | None) -> Markup:
    """Draw training and validation loss over the steps, the best step marked. Either curve may be empty."""
    marks: dict[str, dict[str, Any]] = {
        "training": {"strokeWidth": 1.5, "point": len(training) == 1},
        "validation": {"strokeWidth": 2, "point": {"size": 40}},
    }
    dashes = {"training": [1, 0], "validation": [6, 3]}  # told apart without colour too
    curves = {
        curve: points for curve, points in (("training", thinned(training)), ("validation", validation)) if points
    }
    ranges = {
        "color": [f"var(--{curve})" for curve in curves],
        "strokeDash": [dashes[curve] for curve in curves],
    }
    told_apart = {
        channel: {"field": "curve", "scale": {"domain": list(curves), "range": values}, "legend": {"title": None}}
        for channel, values in ranges.items()
    }
    layers: list[dict[str, Any]] = [
        {
            "data": _values([{"step": point.step, "loss": point.value, "curve": curve} for point in points]),
            "mark": {"type": "line", **marks[curve]},
            "encoding": {
                "x": _axis("step", "optimizer step", axis={"grid": False}),
                "y": _axis("loss", "loss, nats per trained token", scale={"zero": False}),
                **told_apart,
            },
        }
        for curve, points in curves.items()
    ]
    told = [_told("Training loss", training), _told("Validation loss", validation)]
    if best_step is not None:
        last = max(point.step for point in [*training, *validation])
        layers += _marked(best_step, "best step", leftwards=best_step > last / 2)
        told.append(f"Best step: {best_step:g}.")
    description = " ".join(sentence for sentence in told if sentence)
    return _draw(name, "Loss over the training", description, {"layer": layers}, width=440, height=230)


def learning_rate(name: str, points: Sequence[Point]) -> Markup:
    """Draw the learning rate over the steps."""
    chart = {
        "data": _values([{"step": point.step, "rate": point.value} for point in thinned(points)]),
        "mark": {"type": "line", "color": "var(--training)", "strokeWidth": 1.5, "point": len(points) < 2},
        "encoding": {
            "x": _axis("step", "optimizer step", axis={"grid": False, "tickCount": 4}),
            "y": _axis("rate", "learning rate", axis={"labelExpr": RATE, "tickCount": 3}),
        },
    }
    return _draw(name, "Learning rate", _told("Learning rate", points), chart, width=240, height=120)


def histogram(name: str, split: str, bins: Sequence[Bin], longest: int) -> Markup:
    """Draw how long the rows of one split are; `longest` ends the axis, so that the splits can be compared."""
    chart = {
        "data": _values([{"low": item.low, "high": item.high, "rows": item.rows} for item in bins]),
        "mark": {"type": "bar", "color": "var(--tuned)", "stroke": "var(--paper)", "strokeWidth": 0.5},
        "encoding": {
            "x": _axis(
                "low", "tokens in the row", scale={"domain": [0, longest]}, axis={"grid": False, "tickCount": 5}
            ),
            "x2": {"field": "high"},
            "y": _axis("rows", "rows", axis={"tickCount": 4, "format": "~s", "tickMinStep": 1}),
            "y2": {"datum": 0},
        },
    }
    rows = sum(item.rows for item in bins)
    fullest = max(bins, key=lambda item: item.rows)
    most = f"most, {fullest.rows:,}, {agree(fullest.rows, 'has', 'have')}"
    told = f"{counted(rows, 'row')}; {most} {fullest.low:,} to {fullest.high - 1:,} tokens."
    return _draw(name, f"Tokens per row, {split}", told, chart, width=230, height=130)


def steps_per_point(points: Sequence[Point]) -> int:
    """How many steps one point of a drawn line stands for."""
    return max(-(-len(points) // MOST_POINTS), 1)


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS points, each the mean of `steps_per_point` neighbours (the last of what is left)."""
    size = steps_per_point(points)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [Point(fmean(point.step for point in part), fmean(point.value for point in part)) for part in parts]


def _axis(field: str, title: str, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _marked(step: float, label: str, leftwards: bool) -> list[dict[str, Any]]:
    """A vertical line at a step, with its label on the side where there is room."""
    place = {"datum": step, "type": "quantitative"}
    return [
        {
            "data": _values([{}]),
            "mark": {"type": "rule", "color": "var(--ink)", "strokeDash": [2, 3]},
            "encoding": {"x": place},
        },
        {
            "data": _values([{}]),
            "mark": {
                "type": "text",
                "text": f"{label} {step:g}",
                "color": "var(--ink)",
                "fontSize": 12,
                "align": "right" if leftwards else "left",
                "dx": -5 if leftwards else 5,
                "y": 8,
            },
            "encoding": {"x": place},
        },
    ]


def _values(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"values": rows}


def _told(what: str, points: Sequence[Point]) -> str:
    """The curve in words, for those who cannot see it."""
    if not points:
        return ""
    first, last, lowest = points[0], points[-1], min(points, key=lambda point: point.value)
    return (
        f"{what} from {first.value:.3g} at step {first.step:g} to {last.value:.3g} at step {last.step:g}, "
        f"lowest {lowest.value:.3g} at step {lowest.step:g}."
    )


def _draw(name: str, title: str, description: str, chart: dict[str, Any], width: int, height: int) -> Markup:
    """Draw the chart and give it a name, a title and a description; it scales with the page.

    Nothing in it may carry an id but these: Vega numbers its own (clip paths) through the life of the process, and the
    page would change with the order of the drawings.
    """
    spec = {"width": width, "height": height, "padding": 4, "config": STYLE, **chart}
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])
    opening = re.match(r'<svg [^>]*width="([^"]+)"[^>]*viewBox="([^"]+)"[^>]*>', svg)
    if opening is None:
        raise RuntimeError(f"vl-convert begins an SVG in a way that is not known here: {svg[:200]}")
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" style="max-width: {width}px" role="img" '
        'aria-labelledby="{name}-title {name}-description">'
        '<title id="{name}-title">{title}</title><desc id="{name}-description">{description}</desc>{body}'
    ).format(
        box=opening[2],
        width=opening[1],
        name=name,
        title=title,
        description=description,
        body=Markup(svg[opening.end() :]),  # noqa: S704 - Vega has escaped every label in it
    )
