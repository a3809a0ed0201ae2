"""The page that `dvc plots` fills draws its plots without a network."""

import re

from dvc_render.html import HTML
from dvc_render.vega import VegaRenderer

from tests.browser import browse
from tools import plots_template


def test_dvc_finds_its_places_and_none_to_load_scripts_into():
    page = plots_template.page()
    assert page.count("{plot_divs}") == page.count("{refresh_tag}") == 1
    assert "{scripts}" not in page


def test_the_bundle_neither_ends_its_script_nor_loads_another():
    page = plots_template.page()
    assert page.count("</script") == 1
    assert not re.search(r"<script[^>]+src|<link[^>]+stylesheet|cdn\.", page)


def test_it_is_the_same_on_every_run():
    assert plots_template.page() == plots_template.page()


def test_the_template_lands_where_dvc_looks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plots_template.main()
    assert (tmp_path / ".dvc/plots_offline.html").read_text(encoding="utf-8") == plots_template.page()
    assert ".dvc/plots_offline.html" in capsys.readouterr().out


def test_dvcs_own_plot_is_drawn_without_a_network(tmp_path):
    """Filled by DVC's own renderer, as `dvc plots show` does it."""
    points = [{"step": step, "loss": 2 / step, "rev": "workspace"} for step in range(1, 9)]
    plot = VegaRenderer(points, "loss", x="step", y="loss", template="linear", title="Training loss")
    filled = HTML(plots_template.page())
    filled.with_scripts(plot.SCRIPTS)
    filled.with_element(plot.generate_html())
    page = tmp_path / "plots.html"
    page.write_text(filled.embed(), encoding="utf-8")
    document, console = browse(page, tmp_path / "profile")
    assert [line for line in console if "ERROR" in line or "Uncaught" in line] == []
    assert "cdn." not in document
    assert re.search(r"<canvas[^>]*marks|<svg[^>]*marks", document)
