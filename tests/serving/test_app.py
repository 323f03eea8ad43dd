import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import quote, urlencode

import pytest

from helpers.searching import HashEncoder, searcher
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.serving.limits import Limits

pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")

from helpers.client import eventually, serving

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
DOCUMENTS = [Document(f"d{number}", f"text number {number}", fields={"year": 1990 + number}) for number in range(28)]
DOCUMENTS += [Document("d28", HOSTILE, f"{HOSTILE} title"), Document("d29", "snow ☃ and 𝒟")]
LIMITS = Limits(query=100, k=20, batch=8, waiting=4, seconds=5)


@pytest.fixture(scope="module")
def rankers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes")
    return {
        "teacher": searcher(folder / "a", DOCUMENTS, HashEncoder()),
        "student": searcher(folder / "b", DOCUMENTS, HashEncoder("b" * 64, dim=4)),
    }


@pytest.fixture(scope="module")
def client(rankers):
    with serving(rankers, LIMITS) as client:
        yield client


class Gate:
    """A ranker that answers once it may."""

    name = "gate"

    def __init__(self, ranker):
        self._ranker, self.open, self.asked = ranker, threading.Event(), []
        self.open.set()

    def search(self, text, k=10):
        self.asked.append(text)
        assert self.open.wait(20)
        if "fail" in text:
            raise RuntimeError(f"secret of {text}")
        return self._ranker.search(text, k)


def shut(client, gate):
    """Close the gate with a query before it, which keeps the one thread that searches."""
    gate.open.clear()
    pool = ThreadPoolExecutor(16)
    first = pool.submit(client.ask, query="first")
    eventually(lambda: "first" in gate.asked)
    return pool, first


def test_both_ways_to_ask_give_the_ranking_of_each_index(client, rankers):
    by_body = client.ask(query="text number 3", k=12)
    by_url = client("GET", "/search?" + urlencode({"q": "text number 3", "k": 12}))
    assert by_body.status == by_url.status == 200
    for found in (by_body.json, by_url.json):
        assert (found["query"], found["k"]) == ("text number 3", 12)
        assert [answer["index"] for answer in found["indexes"]] == ["teacher", "student"]
        for answer, ranker in zip(found["indexes"], rankers.values(), strict=True):
            hits = ranker.search("text number 3", 12)
            assert [hit["id"] for hit in answer["hits"]] == [hit.doc_id for hit in hits]
            assert [hit["score"] for hit in answer["hits"]] == pytest.approx([hit.score for hit in hits], abs=1e-6)
            assert answer["hits"][0]["text"] == hits[0].document.text
            assert answer["milliseconds"] >= answer["encoding_milliseconds"] > 0
    teacher, student = by_body.json["indexes"]
    ours, theirs = ([hit["id"] for hit in answer["hits"]] for answer in (teacher, student))
    assert teacher["overlap"] is None
    assert student["overlap"] == {"depth": 10, "share": len({*ours[:10]} & {*theirs[:10]}) / 10}
    expected = [ours.index(doc_id) - place if doc_id in ours else None for place, doc_id in enumerate(theirs)]
    assert [hit["moved"] for hit in student["hits"]] == expected
    assert any(steps is not None for steps in expected)


def test_passages_come_when_asked_for_and_point_at_words_of_the_query(client):
    assert "passage" not in client.ask(query="snow ☃").json["indexes"][0]["hits"][0]
    found = client.ask(query="and snow ☃ and 𝒟", k=20, passages=True).json["indexes"][0]["hits"]
    passage = next((hit["passage"] for hit in found if hit["id"] == "d29"), None)
    found += client.ask(query="snow ☃ and 𝒟", k=20, passages=True).json["indexes"][0]["hits"]
    passage = passage or next(hit["passage"] for hit in found if hit["id"] == "d29")
    assert [passage["text"][start:end] for start, end in passage["matches"]] == ["snow", "𝒟"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("", 415, "Content-Type"),
        ("{", 400, "not JSON"),
        ("nonsense", 400, "not JSON"),
        ("[" * 900, 400, "not JSON|parsing"),
        (b"\xff\xfe{}", 400, "not JSON|parsing"),
        ('{"query": "a", "k": ' + "9" * 5000 + "}", 400, "not JSON|parsing"),
        ("null", 422, "body|query"),
        ("[]", 422, "body|query"),
        ('"text"', 422, "body|query"),
        ("{}", 422, "query: Field required"),
        ('{"query": ""}', 422, "query: String should have at least 1 character"),
        ('{"query": " \\n\\t\\u00a0"}', 422, "empty"),
        ('{"query": null}', 422, "query"),
        ('{"query": 7}', 422, "query"),
        ('{"query": ["a"]}', 422, "query"),
        ('{"query": {"$gt": ""}}', 422, "query"),
        ('{"query": "\\ud800"}', 422, "query"),
        (json.dumps({"query": "a" * 101}), 422, "query: String should have at most 100 characters"),
        (json.dumps({"query": "a", "k": 0}), 422, "k: "),
        (json.dumps({"query": "a", "k": -1}), 422, "k: "),
        (json.dumps({"query": "a", "k": 21}), 422, "k: Input should be less than or equal to 20"),
        (json.dumps({"query": "a", "k": 1.5}), 422, "k: "),
        (json.dumps({"query": "a", "k": "ten"}), 422, "k: "),
        ('{"query": "a", "k": NaN}', 422, "k: "),
        ('{"query": "a", "k": 1e999}', 422, "k: "),
        (json.dumps({"query": "a", "passages": "perhaps"}), 422, "passages: "),
        (json.dumps({"query": "a" * 20_000}), 413, "bytes"),
    ],
)
def test_a_wrong_body_gets_one_sentence_and_its_status(client, body, status, says):
    import re

    reply = client.send(body, "application/json" if body else "")
    assert reply.status == status
    assert list(reply.json) == ["error"]
    assert re.search(says, reply.json["error"])
    assert len(reply.json["error"]) < 200
    assert "Traceback" not in reply.json["error"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
def test_a_body_that_is_not_declared_as_json_is_refused(client, content_type):
    # A page of another site may send these without asking first.
    assert client.send('{"query": "a"}', content_type).status == 415


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/search", 422),
        ("GET", "/search?q=", 422),
        ("GET", "/search?q=%20", 422),
        ("GET", "/search?q=a&k=0", 422),
        ("GET", "/search?q=a&k=ten", 422),
        ("GET", "/search?q=" + "a" * 101, 422),
        ("GET", "/search?q=%ED%A0%80%00%FF", 200),
        ("GET", "/search?q=" + quote("☃" * 100), 200),
        ("GET", "/nowhere", 404),
        ("GET", "/search/", 404),
        ("GET", "/page/../app.py", 404),
        ("GET", "/page/%2e%2e/app.py", 404),
        ("GET", "/page/..%2fapp.py", 404),
        ("GET", "/swagger/..%2f__init__.py", 404),
        ("DELETE", "/search", 405),
        ("OPTIONS", "/search", 405),
        ("POST", "/healthz", 405),
    ],
)
def test_a_wrong_address_gets_its_status(client, method, path, status):
    reply = client(method, path)
    assert reply.status == status
    assert status == 200 or list(reply.json) == ["error"]


def test_texts_of_every_kind_are_answered(client):
    for text in (HOSTILE, "'; DROP TABLE documents; --", "\x00\x07\x1b[31m", "../../etc/passwd", "${7*7}", "\u202e𝒟☃"):
        reply = client.ask(query=text)
        assert reply.status == 200
        assert reply.json["query"] == text
        assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/page/page.js", "/swagger/swagger-ui.css", "/search?q=a", "/search", "/nowhere", "/metrics"]
)
def test_every_answer_carries_the_headers_that_guard_a_browser(client, path):
    headers = client("GET", path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_a_request_to_a_name_that_was_made_to_lead_here_is_refused(client, host):
    reply = client("GET", "/search?q=a", headers={"Host": host})
    assert reply.status == 400
    assert b"d0" not in reply.body


def test_pages_refer_to_this_server_alone(client):
    import re

    for path in ("/", "/docs", "/page/page.css", "/page/page.js", "/page/docs.js"):
        text = client("GET", path).body.decode()
        assert not re.findall(r"""(?:https?:)?//[\w.-]+\.\w+""", text)
        assert "style=" not in text
        for reference in re.findall(r'(?:src|href)="([^"#]+)"', text):
            assert client("GET", reference).status == 200, reference


def test_the_openapi_page_tells_limits_and_problems(client):
    schema = client("GET", "/openapi.json").json
    assert set(schema["paths"]) == {"/search", "/healthz", "/metrics"}
    parameters = {each["name"]: each["schema"] for each in schema["paths"]["/search"]["get"]["parameters"]}
    assert parameters["q"]["maxLength"] == 100
    assert (parameters["k"]["minimum"], parameters["k"]["maximum"], parameters["k"]["default"]) == (1, 20, 10)
    assert {"200", "413", "422", "429", "503"} <= set(schema["paths"]["/search"]["post"]["responses"])


def test_answers_have_the_shape_that_the_openapi_page_tells(client):
    from pydantic import TypeAdapter

    from ibkd_retrieval.serving.payload import Health, SearchAnswer

    for passages in (False, True):
        TypeAdapter(SearchAnswer).validate_json(client.ask(query="a", passages=passages).body, strict=True)
    TypeAdapter(Health).validate_json(client("GET", "/healthz").body, strict=True)


def test_metrics_count_requests_and_batches(client):
    before = client.metric('ibkd_requests_total{path="/search",status="200"}'), client.metric("ibkd_batch_queries_sum")
    for _ in range(3):
        client.ask(query="a")
    client("GET", "/secret/path")
    assert client.metric('ibkd_requests_total{path="/search",status="200"}') == before[0] + 3
    assert client.metric("ibkd_batch_queries_sum") == before[1] + 3
    assert client.metric('ibkd_documents{index="student"}') == 30
    text = client("GET", "/metrics").body.decode()
    assert "secret" not in text
    assert 'path="other"' in text


def test_metrics_are_prometheus_text(client):
    from prometheus_client.parser import text_string_to_metric_families

    reply = client("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(reply.body.decode())}
    assert {"ibkd_requests", "ibkd_request_seconds", "ibkd_batch_queries", "ibkd_waiting_queries"} <= names


def test_answers_on_a_kept_connection_wait_for_no_acknowledgement(client):
    # An answer of two packets, on a socket that joins small ones, comes 40 ms late, every time.
    connection = HTTPConnection("127.0.0.1", client.port, timeout=30)
    took = []
    for _ in range(50):
        began = time.perf_counter()
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.03


def test_a_full_queue_turns_away_and_answers_all_it_took(rankers):
    gate = Gate(rankers["teacher"])
    with serving({"gate": gate}, LIMITS) as client:
        pool, first = shut(client, gate)
        asked = [pool.submit(client.ask, query=f"text number {number}") for number in range(10)]
        eventually(lambda: sum(each.done() for each in asked) == 6)
        assert client.metric("ibkd_waiting_queries") == LIMITS.waiting
        gate.open.set()
        replies = [each.result(20) for each in asked]
        assert first.result(20).status == 200
    turned_away = [reply for reply in replies if reply.status == 429]
    assert len(turned_away) == 6
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in turned_away)
    assert sorted(reply.status for reply in replies) == [200] * 4 + [429] * 6


def test_a_search_that_takes_too_long_is_given_up(rankers):
    gate = Gate(rankers["teacher"])
    # Long enough that a loaded machine answers the last one, short enough to wait for twice.
    with serving({"gate": gate}, Limits(seconds=2)) as client:
        pool, first = shut(client, gate)
        late = client.ask(query="late")
        assert (late.status, first.result(20).status) == (503, 503)
        assert "retry-after" in late.headers
        gate.open.set()
        assert client.ask(query="text").status == 200
        assert "late" not in gate.asked
        pool.shutdown()


def test_a_search_that_fails_says_nothing_of_how_and_others_go_on(rankers, caplog):
    gate = Gate(rankers["teacher"])
    with serving({"gate": gate}, LIMITS) as client:
        pool, first = shut(client, gate)
        asked = [pool.submit(client.ask, query=text) for text in ("good", "fail", "fine")]
        eventually(lambda: client.metric("ibkd_waiting_queries") == 3)
        gate.open.set()
        assert [each.result(20).status for each in (first, *asked)] == [200, 200, 500, 200]
        failed = asked[1].result()
        assert failed.headers["content-security-policy"]
        assert list(failed.json) == ["error"]
        assert b"secret" not in failed.body
    assert "secret of fail" in caplog.text


def test_a_body_that_does_not_end_is_given_up(rankers):
    with serving(rankers, Limits(seconds=0.3)) as client:
        head = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        assert client.raw(head + b'Content-Length: 50\r\n\r\n{"query').startswith(b"HTTP/1.1 408 ")


def test_a_body_of_unknown_length_is_read_to_the_limit(client):
    head = (
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    )
    chunk = b"%x\r\n%s\r\n" % (4096, b" " * 4096)
    assert client.raw(head + b"\r\n" + 10 * chunk).startswith(b"HTTP/1.1 413 ")
    good = json.dumps({"query": "text"}).encode()
    whole = head + b"Connection: close\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(good), good)
    assert client.raw(whole).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: five\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"GET /search?q=" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000,
    ],
)
def test_what_is_no_http_is_refused_and_the_server_lives(client, sent):
    reply = client.raw(sent)
    assert reply == b"" or reply.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert client("GET", "/healthz").json["status"] == "ok"
