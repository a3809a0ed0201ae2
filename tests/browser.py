"""Open a page in headless Chromium with the network off."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
)


def browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after the page was laid out and its scripts ran, and what the page wrote to the console."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH (`apt-get install chromium`)")
    network_off = ["unshare", "-rn"]
    if shutil.which("unshare") is None or subprocess.run([*network_off, "true"], check=False).returncode:
        pytest.skip("no network namespace can be made here (`unshare -rn` fails)")
    done = subprocess.run(
        [
            *(*network_off, CHROMIUM, *SWITCHES),
            *("--dump-dom", "--virtual-time-budget=5000", f"--user-data-dir={profile}", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # Chromium's own pages (chrome://…) write to the same log.
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line and "chrome://" not in line]
