"""Write the page that `dvc plots` fills, with Vega inside: DVC's own page loads it from a CDN and is blank offline.

Writes  .dvc/plots_offline.html

`.dvc/config` names it as `plots.html_template = plots_offline.html`, a path relative to `.dvc/`. DVC puts the plots in
place of `{plot_divs}` and a reload tag in place of `{refresh_tag}`. Its third placeholder, `{scripts}`, is where it
would load Vega from the network, and is left out here.
"""

from pathlib import Path

import vl_convert

TEMPLATE = Path(".dvc/plots_offline.html")
VEGA_LITE = "5.21"  # the newest of the major version that DVC's plot templates are written in
EXPORT = "window.vegaEmbed = vegaEmbed;"  # what the script beside every plot calls

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>DVC plots</title>
<link rel="icon" href="data:,">
<script>
(() => {
%s
})();
</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def page() -> str:
    """The template. The bundle is a module's body: the function around it keeps its names from clashing."""
    return PAGE % vl_convert.javascript_bundle(EXPORT, vl_version=VEGA_LITE)


def main() -> None:
    """Write the template."""
    TEMPLATE.parent.mkdir(exist_ok=True)
    TEMPLATE.write_text(page(), encoding="utf-8", newline="\n")
    print(f"plots template of {TEMPLATE.stat().st_size / 1024:,.0f} KiB → {TEMPLATE}")


if __name__ == "__main__":
    main()
