"""Charts: drawn, named, safe to stand inside a page, and the same on every run."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.lib import charts
from stages.lib.charts import Bin, Point

SVG = "{http://www.w3.org/2000/svg}"
TRAINING = [Point(step, 2 / step) for step in range(1, 61)]
VALIDATION = [Point(20, 0.5), Point(40, 0.3), Point(60, 0.4)]


def drawings() -> dict[str, str]:
    return {
        "losses": charts.losses("losses", TRAINING, VALIDATION, best_step=40),
        "training-only": charts.losses("training-only", TRAINING, [], best_step=None),
        "validation-only": charts.losses("validation-only", [], VALIDATION, best_step=20),
        "one-step": charts.losses("one-step", TRAINING[:1], [], best_step=None),
        "rate": charts.learning_rate("rate", [Point(step, step * 1e-5) for step in range(9)]),
        "lengths": charts.histogram("lengths", "train", [Bin(0, 32, 5), Bin(32, 64, 9)], longest=512),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return drawings()


@pytest.mark.parametrize("name", ["losses", "training-only", "validation-only", "one-step", "rate", "lengths"])
def test_a_chart_is_an_image_with_a_name_and_a_description(drawn, name):
    root = ElementTree.fromstring(drawn[name])  # noqa: S314 - our own drawing
    assert root.get("role") == "img"
    labels = root.get("aria-labelledby").split()
    texts = {child.get("id"): child.text for child in root if child.tag in (f"{SVG}title", f"{SVG}desc")}
    assert list(texts) == labels
    assert all(texts.values())


@pytest.mark.parametrize("name", ["losses", "training-only", "validation-only", "one-step", "rate", "lengths"])
def test_a_chart_scales_with_the_page_and_takes_its_colours_from_it(drawn, name):
    opening = drawn[name][: drawn[name].index(">")]
    assert "viewBox=" in opening
    assert not re.search(r' (width|height)="', opening)
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', drawn[name]))
    assert {colour for colour in colours if not colour.startswith("var(--")} <= {"none", "transparent"}


def test_nothing_in_a_chart_has_an_id_of_vega_s_own(drawn):
    """Vega numbers clip paths through the life of a process: two charts of a page would share them, or change."""
    for name, svg in drawn.items():
        assert set(re.findall(r' id="([^"]+)"', svg)) == {f"{name}-title", f"{name}-description"}


def test_the_same_figures_give_the_same_drawing(drawn):
    assert drawings() == drawn


def test_the_best_step_is_marked_in_the_drawing_and_in_its_description(drawn):
    assert "best step 40</text>" in drawn["losses"]
    assert "Best step: 40." in drawn["losses"]
    assert "best step" not in drawn["training-only"].lower()


def test_a_description_tells_the_curve_in_figures(drawn):
    assert "Training loss from 2 at step 1 to 0.0333 at step 60, lowest 0.0333 at step 60." in drawn["losses"]
    assert "Validation loss from 0.5 at step 20 to 0.4 at step 60, lowest 0.3 at step 40." in drawn["losses"]
    assert "14 rows; most, 9, have 32 to 63 tokens." in drawn["lengths"]


def test_the_two_losses_differ_by_more_than_colour(drawn):
    dashes = re.findall(r'"line mark"[^>]*stroke-dasharray="([^"]+)"', drawn["losses"])
    assert len(dashes) == len(set(dashes)) == 2


def test_labels_are_escaped():
    svg = charts.histogram("lengths", "<script>alert(1)</script> & more", [Bin(0, 8, 1)], longest=8)
    assert "<script" not in svg
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in svg


def test_a_bar_stands_on_the_axis_and_is_as_high_as_its_rows(drawn):
    heights = [float(height) for height in re.findall(r'bar[^>]*d="M[^"]*?v(-?[\d.]+)h', drawn["lengths"])]
    assert len(heights) == 2
    assert heights[0] / heights[1] == pytest.approx(5 / 9, rel=0.01)


@given(st.integers(min_value=0, max_value=3 * charts.MOST_POINTS))
def test_a_thinned_curve_is_short_and_keeps_the_sum(length):
    points = [Point(step, math.sin(step)) for step in range(length)]
    thin = charts.thinned(points)
    size = charts.steps_per_point(points)
    assert len(thin) <= charts.MOST_POINTS
    whole, rest = divmod(length, size)
    weights = [size] * whole + [rest] * (rest > 0)
    total = sum(point.value * weight for point, weight in zip(thin, weights, strict=True))
    assert total == pytest.approx(sum(point.value for point in points), abs=1e-9)


def test_a_long_training_does_not_make_a_heavy_page():
    points = [Point(step, 1 / step) for step in range(1, 50_001)]
    assert len(charts.losses("losses", points, [], best_step=None)) < 40_000
