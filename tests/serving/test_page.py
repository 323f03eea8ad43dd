"""The page in a real browser: chromium without a window, which prints the page once its script has run."""

import html
import re
import shutil
import subprocess
from urllib.parse import urlencode

import pytest

from helpers.searching import HashEncoder, searcher
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.serving.limits import Limits

pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")

from helpers.client import serving

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium")

HOSTILE = "</p><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
DOCUMENTS = [Document(f"d{number}", f"text number {number}") for number in range(8)]
DOCUMENTS += [Document("evil", f"{HOSTILE} {'and so on ' * 50}", HOSTILE, {"field": HOSTILE})]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes")
    rankers = {
        "teacher": searcher(folder / "a", DOCUMENTS, HashEncoder()),
        "student": searcher(folder / "b", DOCUMENTS[3:], HashEncoder("b" * 64, dim=4)),
    }
    with serving(rankers, Limits(query=200, k=20)) as client:
        yield client


def shown(client, path, profile):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=8000", "--dump-dom", f"http://127.0.0.1:{client.port}{path}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_answers_of_both_indexes_stand_on_the_page(client, tmp_path):
    page = shown(client, "/?" + urlencode({"q": "text number 5", "k": 20}), tmp_path)
    answers = client.ask(query="text number 5", k=20, passages=True).json["indexes"]
    columns = page.split('<section class="answer"')[1:]
    assert len(columns) == 2
    for column, answer in zip(columns, answers, strict=True):
        assert re.findall(r'data-id="([^"]+)"', column) == [hit["id"] for hit in answer["hits"]]
        assert f">{answer['index']}</h2>" in column
    assert f"overlap@{answers[1]['overlap']['depth']} {answers[1]['overlap']['share']:.2f}" in page
    assert "<mark>text</mark>" in page
    assert columns[1].count("only here") == 0
    assert columns[0].count("only here") == 3


def test_a_document_that_holds_markup_is_shown_as_text(client, tmp_path):
    page = shown(client, "/?" + urlencode({"q": "and so on <b>bold</b>", "k": 20}), tmp_path)
    assert 'data-id="evil"' in page
    assert "<title>and so on &lt;b&gt;bold&lt;/b&gt; · ibkd-retrieval</title>" in page
    assert html.escape(HOSTILE, quote=False) in page
    assert page.count("<script") == 1
    assert "<img" not in page


def test_what_the_server_refuses_is_said_on_the_page(client, tmp_path):
    page = shown(client, "/?" + urlencode({"q": "a" * 201}), tmp_path)
    assert "query: String should have at most 200 characters." in page
    assert '<section class="answer"' not in page
