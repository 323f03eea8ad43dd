"""The page as a browser lays it out; skipped where there is no Chromium or Chrome."""

import dataclasses
import html
import json
import os
import re
import shutil
import subprocess

import pytest

from helpers.sample_reports import sample_comparison
from ibkd_retrieval.evaluation.report.write import comparison_as_html

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
PHONE, DESK = 390, 1280
LONG = "a-model-name-without-any-break-" * 5

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path")

# Reads the laid-out page in the frame: what is wider than it, and which texts of a figure meet or leave the figure.
MEASURE = """
const frame = document.createElement('iframe');
frame.style = `width:${WIDTH}px;height:900px;border:0`;
frame.addEventListener('load', () => {
  const page = frame.contentDocument, width = page.documentElement.clientWidth;
  for (const each of page.querySelectorAll('details')) each.open = true;
  const wide = [...page.querySelectorAll('body *')]
    .filter(e => !e.closest('.skip') && !e.closest('.scroll') && e.getBoundingClientRect().right > width + 1)
    .map(e => e.tagName + ' ' + e.textContent.slice(0, 40));
  const cut = [...page.querySelectorAll('.scroll')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.trim().slice(0, 60));
  const wrong = [];
  for (const figure of page.querySelectorAll('svg.figure')) {
    const edge = figure.getBoundingClientRect();
    const texts = [...figure.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    texts.forEach(([text, box], number) => {
      if (box.left < edge.left - 1 || box.right > edge.right + 1 || box.bottom > edge.bottom + 1)
        wrong.push(['clipped', text]);
      for (const [other, its] of texts.slice(0, number))
        if (Math.min(box.right, its.right) - Math.max(box.left, its.left) > 1
            && Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top) > 3) wrong.push(['overlap', text, other]);
    });
  }
  const style = page.defaultView.getComputedStyle(page.body);
  const scale = svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  const sizes = [...page.querySelectorAll('svg.figure text')]
    .map(t => parseFloat(t.style.fontSize) * scale(t.ownerSVGElement));
  const found = JSON.stringify({
    width: page.documentElement.scrollWidth, wide, cut, wrong, figures: page.querySelectorAll('svg.figure').length,
    paper: style.backgroundColor, ink: style.color, smallest: Math.min(...sizes),
  });
  document.body.innerHTML = '<pre id="found"></pre>';
  document.getElementById('found').textContent = found;
});
frame.srcdoc = document.getElementById('page').textContent;
document.body.append(frame);
"""


def laid_out(page, width, folder, dark=False):
    """What the browser finds when it shows the page in a frame of `width` pixels."""
    # The page's own policy would keep this test's script from reading it.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    outer = folder / "outer.html"
    outer.write_text(
        f'<!doctype html><meta charset="utf-8"><body><textarea id="page" hidden>{html.escape(page)}</textarea>'
        f"<script>const WIDTH = {width};{MEASURE}</script>",
        "utf-8",
    )
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        "--hide-scrollbars",
        "--virtual-time-budget=20000",
    ]
    command += [f"--window-size={width + 60},1000", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", outer.as_uri()]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module", params=["usual", "long names"])
def page(request):
    if request.param == "usual":
        return comparison_as_html(sample_comparison(systems=5, queries=40))
    return comparison_as_html(
        sample_comparison(systems=3, queries=20, names=[f"{LONG}{n}" for n in range(3)], query_text=LONG * 9)
    )


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_overlaps_is_cut_or_has_to_be_scrolled_sideways(page, width, tmp_path):
    found = laid_out(page, width, tmp_path)
    assert found["width"] == width
    assert not found["wide"]
    assert not found["wrong"]
    assert found["figures"] >= 4
    assert found["smallest"] >= 8.5


def test_the_page_follows_the_theme(tmp_path):
    page = comparison_as_html(sample_comparison(systems=2, queries=5))
    light, dark = laid_out(page, DESK, tmp_path), laid_out(page, DESK, tmp_path, dark=True)
    assert (light["paper"], light["ink"]) == ("rgb(254, 254, 254)", "rgb(31, 35, 40)")
    assert (dark["paper"], dark["ink"]) == ("rgb(20, 24, 29)", "rgb(230, 237, 243)")


def test_no_table_has_to_be_scrolled_where_encoders_are_folders(tmp_path):
    comparison = sample_comparison(systems=5, queries=5)
    folder = "/home/someone/projects/models/paraphrase-MiniLM-L3-v2"
    systems = tuple(
        dataclasses.replace(each, encoder=dataclasses.replace(each.encoder, name=folder)) for each in comparison.systems
    )
    page = comparison_as_html(dataclasses.replace(comparison, systems=systems))
    assert not laid_out(page, DESK, tmp_path)["cut"]
