"""The HTML page in a real browser."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import samples
from PIL import Image

from detrigger.report.document import document
from detrigger.report.html import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chromium-browser on PATH"),
]

PROBE = """<script>addEventListener("load", () => {
  const e = document.documentElement, n = document.querySelectorAll("img").length;
  const drawn = [...document.images].filter(i => i.naturalWidth > 0).length;
  document.title = `width ${e.scrollWidth} of ${e.clientWidth}, ${drawn} of ${n} images`;
})</script>"""
"""Measures the page; put into a copy whose policy allows scripts."""


def chromium(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars"
    quiet += (
        " --disable-background-networking --disable-component-update --disable-sync --enable-logging=stderr"
    )
    return subprocess.run(
        [str(CHROMIUM), *quiet.split(), f"--user-data-dir={folder / 'profile'}", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def full() -> str:
    scan, cleaning = samples.scan(), samples.cleaning()
    made = document(scan, cleaning=cleaning, matches=[samples.match()])
    return page(made, scan, samples.images(), samples.model(), cleaning=cleaning)


def many() -> str:
    long = tuple(f"{i} a long name of a class_that_cannot_be_broken_anywhere_{'x' * 60}" for i in range(70))
    scan = samples.scan(70, called=long)
    return page(document(scan), scan, samples.images(70, called=long), samples.model(70, called=long))


def screenshot(folder: Path, html: str, *, dark: bool, width: int) -> tuple[Image.Image, str]:
    (folder / "page.html").write_text(html, encoding="utf-8")
    shot = folder / "shot.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    done = chromium(
        folder, scheme, f"--window-size={width},900", f"--screenshot={shot}", f"file://{folder / 'page.html'}"
    )
    return Image.open(io.BytesIO(shot.read_bytes())).convert("RGB"), done.stderr


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_drawn_in_light_and_dark(tmp_path, dark):
    picture, log = screenshot(tmp_path, full(), dark=dark, width=1200)
    colours = picture.getcolors(maxcolors=1 << 24)
    assert colours is not None and len(colours) > 50
    background = picture.getpixel((5, picture.height - 5))
    assert (sum(background) < 200) == dark
    assert "Content Security Policy" not in log and "Refused" not in log


def test_the_policy_stops_a_script_that_got_in(tmp_path):
    stopped = full().replace("<main>", "<main><script>document.title = 'it ran'</script>")
    (tmp_path / "page.html").write_text(stopped, encoding="utf-8")
    done = chromium(tmp_path, "--dump-dom", f"file://{tmp_path / 'page.html'}")
    assert "<title>Backdoored: model.safetensors" in done.stdout
    assert "Content Security Policy" in done.stderr


@pytest.mark.parametrize("width", [1200, 500])
@pytest.mark.parametrize("made", [full, many])
def test_nothing_sticks_out_and_all_pictures_are_drawn(tmp_path, width, made):
    html, policies = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", made())
    assert policies == 1
    (tmp_path / "page.html").write_text(html.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    done = chromium(tmp_path, f"--window-size={width},900", "--dump-dom", f"file://{tmp_path / 'page.html'}")
    seen = re.search(r"<title>width (\d+) of (\d+), (\d+) of (\d+) images</title>", done.stdout)
    assert seen, done.stdout[:300]
    content, window, drawn, images = map(int, seen.groups())
    assert content <= window <= width
    assert drawn == images == 14
