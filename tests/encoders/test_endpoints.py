"""A model behind an endpoint: a small server on loopback, with the faults that servers have."""

import logging
import socket
import time

import numpy as np
import pytest

from helpers.endpoint import endpoint, vector_of
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.endpoints.address import Address, EndpointTerms, is_endpoint
from ibkd_retrieval.encoders.endpoints.cost import Estimate, agree, estimate
from ibkd_retrieval.encoders.endpoints.identity import PROBE, hash_of, same_weights
from ibkd_retrieval.encoders.loading import find_model, short_model_name
from ibkd_retrieval.errors import UserError, WorkFailed
from ibkd_retrieval.progress import SILENT

pytest.importorskip("openai")

TEXTS = [f"text number {number}" for number in range(40)]
QUICK = EndpointTerms(timeout=0.5, retries=1, yes=True)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture
def served():
    with endpoint() as made:
        yield made


def vectors_of(texts, **settings):
    return np.stack([vector_of(text, **settings) for text in texts])


def test_vectors_come_in_the_order_of_the_texts_whatever_the_order_of_the_answer(served):
    encoder = Encoder.load(served.url, endpoint=QUICK)
    assert np.allclose(encoder.encode(TEXTS), vectors_of(TEXTS), atol=1e-6)
    assert np.allclose(encoder.encode(TEXTS[:3], "queries"), vectors_of(TEXTS[:3]), atol=1e-6)
    assert encoder.encode([]).shape == (0, 32)
    assert (encoder.name, encoder.dim, encoder.max_length) == (served.url, 32, 0)
    assert all(len(request["input"]) <= 17 for request in served.requests[:3])
    with pytest.raises(UserError, match="Text 2 is a int: give strings"):
        encoder.encode(["a", 3])


@pytest.mark.parametrize(
    ("text", "says"), [(3, "Text 2 is a int: give strings"), ("a \ud800 b", "Text 2 holds a lone surrogate")]
)
def test_a_text_that_cannot_be_sent_is_told_of_before_anything_is_sent(served, text, says):
    encoder = Encoder.load(served.url, endpoint=QUICK)
    before = len(served.requests)
    for asked in (encoder.encode, encoder.prepare, encoder.token_counts):
        with pytest.raises(UserError, match=says):
            asked(["a", text])
    assert len(served.requests) == before


def test_dimensions_input_types_prompts_and_characters_are_passed_on(served):
    base, _, model = served.url.partition("#")
    name = f"{base}?dimensions=8&input_type=query,passage&max_characters=9#{model}"
    encoder = Encoder.load(name, endpoint=QUICK, query_prompt="Q: ")
    assert encoder.name == name
    assert encoder.dim == 8
    found = encoder.encode(["a long text", ""], "query")
    assert np.allclose(found, vectors_of(["queryQ: a long", "queryQ: "], dim=8), atol=1e-6)
    assert served.requests[-1] | {"input": 0} == {
        "input": 0,
        "model": "tiny",
        "dimensions": 8,
        "input_type": "query",
        "encoding_format": "base64",
    }
    assert np.allclose(encoder.encode(["", "a"]), vectors_of(["passage ", "passagea"], dim=8), atol=1e-6)
    assert set(served.keys) == {"Bearer sk-secret-key"}


@pytest.mark.parametrize("name", ["query_prompt", "document_prompt"])
def test_a_prompt_that_cannot_stand_before_a_text_is_refused_before_anything_is_sent(served, name):
    for prompt, says in (("Q: {query}", "has the placeholder {query}"), ("a \ud800", "is no text")):
        with pytest.raises(UserError, match=f"`{name}` .* {says}"):
            Encoder.load(served.url, endpoint=QUICK, **{name: prompt})
    assert not served.requests


def test_leading_dimensions_are_kept_and_brought_to_unit_length(served):
    encoder = Encoder.load(served.url, endpoint=QUICK, dim=4)
    cut = vectors_of(TEXTS)[:, :4]
    assert np.allclose(encoder.encode(TEXTS), cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)
    assert not same_weights(encoder.weight_hash, Encoder.load(served.url, endpoint=QUICK).weight_hash)
    with pytest.raises(UserError, match=r"`dim` is 64, and the vectors of .* have 32 dimensions"):
        Encoder.load(served.url, endpoint=QUICK, dim=64)


@pytest.mark.parametrize("fault", [429, 500, 503, "slow", "cut", "cut json", "page", "fewer"])
def test_what_passes_is_sent_again(served, fault):
    encoder = Encoder.load(served.url, endpoint=QUICK)
    served.faults = [fault]
    assert np.allclose(encoder.encode(TEXTS[:4]), vectors_of(TEXTS[:4]), atol=1e-6)
    assert len(served.requests) == 3


def test_retry_after_is_waited_for(served):
    encoder = Encoder.load(served.url, endpoint=QUICK)
    served.headers, served.faults = {"Retry-After": "1"}, [429]
    began = time.monotonic()
    encoder.encode(TEXTS[:1])
    assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (500, WorkFailed, r"does not answer any more, after 1 retries \(status 500, some_code\); what was answered"),
        (429, WorkFailed, "does not answer any more"),
        ("cut", WorkFailed, "the connection is refused or lost"),
        (401, UserError, "refuses the key in the environment variable OPENAI_API_KEY"),
        (404, UserError, "is not there"),
        (400, UserError, r"refuses a text of \d+ characters"),
        ("cut json", UserError, "answers with no JSON with one vector for each text"),
        ("page", UserError, "answers with no JSON"),
        ("nan", UserError, "answers with a vector that is not finite, or zero"),
        ("longer", UserError, "answers with vectors of different lengths"),
        ("dim", UserError, "now gives vectors of 33 dimensions, and gave 32 before"),
        ("model", UserError, "has changed its model"),
    ],
)
def test_what_stays_wrong_is_refused_in_one_sentence(served, fault, error, says):
    encoder = Encoder.load(served.url, endpoint=QUICK)
    served.always = fault
    with pytest.raises(error, match=says) as raised:
        encoder.encode(TEXTS[:4])
    assert "\n" not in str(raised.value)
    served.always = None
    assert np.allclose(encoder.encode(TEXTS[:4]), vectors_of(TEXTS[:4]), atol=1e-6)


def test_a_server_that_stays_slow_gets_smaller_requests_and_then_an_error(served):
    encoder = Encoder.load(served.url, endpoint=EndpointTerms(timeout=0.1, retries=0))
    served.faults = ["slow"]
    assert np.allclose(encoder.encode(TEXTS[:4]), vectors_of(TEXTS[:4]), atol=1e-6)
    assert [len(request["input"]) for request in served.requests] == [4, 5, 3, 3]


def test_an_address_where_nothing_answers_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UserError, match=r"No answer from the endpoint .*: the connection is refused or lost"):
        Encoder.load(f"http://127.0.0.1:{port}/v1#tiny", endpoint=QUICK)


def test_a_missing_key_is_told_of(served, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    served.always = 401
    with pytest.raises(UserError, match="refuses a request without a key"):
        Encoder.load(served.url, endpoint=QUICK)


def test_requests_shrink_to_what_the_server_takes_and_a_text_that_it_refuses_is_found():
    with endpoint(most=6) as served:
        encoder = Encoder.load(served.url, endpoint=QUICK)
        assert np.allclose(encoder.encode(TEXTS), vectors_of(TEXTS), atol=1e-6)


def test_a_server_that_fails_over_a_large_request_is_asked_for_less(served):
    encoder = Encoder.load(served.url, endpoint=EndpointTerms(retries=0))
    served.faults = [503]
    assert np.allclose(encoder.encode(TEXTS[:4]), vectors_of(TEXTS[:4]), atol=1e-6)
    assert [len(request["input"]) for request in served.requests] == [4, 5, 3, 3]


def test_a_server_that_knows_no_base64_is_asked_for_numbers(served):
    served.faults = [400]
    encoder = Encoder.load(served.url, endpoint=QUICK)
    assert np.allclose(encoder.encode(TEXTS), vectors_of(TEXTS), atol=1e-6)
    assert {request["encoding_format"] for request in served.requests[1:]} == {"float"}


def test_what_was_paid_for_is_not_asked_again_after_a_crash(served):
    encoder = Encoder.load(served.url, endpoint=EndpointTerms(retries=0, at_once=1)).keep_paid()
    served.faults = [None, *[500] * 40]
    with pytest.raises(WorkFailed):
        encoder.encode(TEXTS)
    served.faults = []
    paid = set(served.requests[1]["input"]) & set(TEXTS)
    assert 0 < len(paid) < len(TEXTS)
    address = Address.parse(served.url)
    assert estimate(address, TEXTS).paid == len(paid)
    before = len(served.texts)
    again = Encoder.load(served.url, endpoint=QUICK).keep_paid()
    assert np.allclose(again.encode(TEXTS), vectors_of(TEXTS), atol=1e-6)
    assert sorted(set(served.texts[before:]) - set(PROBE)) == sorted(set(TEXTS) - paid)
    before = len(served.requests)
    assert np.allclose(again.encode(TEXTS[::-1]), vectors_of(TEXTS[::-1]), atol=1e-6)
    assert len(served.requests) == before


def test_a_damaged_or_torn_file_of_paid_vectors_is_asked_again(served, tmp_path):
    encoder = Encoder.load(served.url, endpoint=QUICK).keep_paid()
    encoder.encode(TEXTS[:4])
    (keys,), (vectors,) = ((tmp_path / "cache").rglob(name) for name in ("keys.bin", "vectors.f32"))
    keys.write_bytes(keys.read_bytes() + b"torn")
    content = bytearray(vectors.read_bytes())
    content[5] ^= 255
    vectors.write_bytes(bytes(content) + b"torn")
    before = len(served.requests)
    again = Encoder.load(served.url, endpoint=QUICK).keep_paid()
    for texts in (TEXTS[:6], TEXTS[:6]):
        assert np.allclose(again.encode(texts), vectors_of(texts), atol=1e-6)
    assert set(served.requests[before + 1]["input"]) - set(PROBE) == {TEXTS[0], *TEXTS[4:6]}
    assert len(served.requests) == before + 2


def test_a_model_keeps_its_hash_through_rounding_and_not_through_a_change():
    with endpoint(noise=0.05) as served:
        hashes = {Encoder.load(served.url, endpoint=QUICK).weight_hash for _ in range(3)}
        assert len(hashes) == 1
        encoder = Encoder.load(served.url, endpoint=QUICK)
        encoder.encode(TEXTS)
        served.model = "b"
        assert Encoder.load(served.url, endpoint=QUICK).weight_hash not in hashes
        with pytest.raises(UserError, match="has changed its model"):
            encoder.encode(TEXTS[:1])
        with pytest.raises(UserError, match="has changed its model"):
            encoder.encode(TEXTS, "query")


def test_sketches_tell_near_vectors_from_others():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((4, 384))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def moved(cosine):
        other = generator.standard_normal((4, 384))
        other -= (other * vectors).sum(axis=1, keepdims=True) * vectors
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        return cosine * vectors + np.sqrt(1 - cosine**2) * other

    own = hash_of(vectors, "settings")
    assert all(same_weights(own, hash_of(moved(cosine), "settings")) for cosine in (0.9999, 0.998, 0.995))
    assert not any(same_weights(own, hash_of(moved(cosine), "settings")) for cosine in (0.97, 0.9, 0.0))
    assert not same_weights(own, hash_of(vectors, "other settings"))
    assert not same_weights(own, "0" * 64)


def test_texts_and_keys_reach_no_log_and_no_message(served, caplog):
    caplog.set_level(logging.DEBUG)
    encoder = Encoder.load(served.url, endpoint=EndpointTerms(timeout=0.3, retries=0)).keep_paid()
    encoder.encode(["a private text"])
    said = []
    for fault in (400, 401, 403, 404, 422, 429, 500, "slow", "cut", "cut json", "page", "nan", "longer", "model"):
        served.always = fault
        for texts in (["another private text"], ["one private text", "two private texts"]):
            with pytest.raises((UserError, WorkFailed)) as raised:
                encoder.encode(texts)
            said.append("".join(map(str, raised.getrepr(style="short", chain=False).reprcrash.message)))
            assert raised.value.__cause__ is None
            assert raised.value.__suppress_context__ or raised.value.__context__ is None
    everything = caplog.text + "".join(said)
    assert "127.0.0.1" in everything
    assert "private" not in everything
    assert "secret" not in everything


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("http://#m", "names no host"),
        ("http://h:99999/v1#m", "names no host"),
        ("http://host/v1", "names no model"),
        ("http://me:secret@host/v1#m", "holds a name or a key"),
        ("https://host/v1?api_key=secret#m", "1 settings that are not known"),
        ("https://host/v1?dimensions=-1#m", "dimensions that is no whole number above zero"),
        ("https://host/v1?input_type=query#m", "input_type that is no pair"),
    ],
)
def test_an_address_that_is_wrong_is_refused_without_its_key(name, says):
    with pytest.raises(UserError, match=says) as raised:
        Address.parse(name)
    assert "secret" not in str(raised.value)


def test_what_needs_the_weights_of_a_model_refuses_an_endpoint():
    assert is_endpoint("https://host/v1#m")
    assert short_model_name("https://host/v1#org/m-1") == "m-1"
    with pytest.raises(UserError, match="is an endpoint, whose weights cannot be read"):
        find_model("https://host/v1#m")
    for settings in ({"pooling": "cls"}, {"max_length": 9}, {"dtype": "int8"}, {"backend": "onnx"}):
        with pytest.raises(UserError, match="is for a model that runs here"):
            Encoder.load("https://host/v1#m", **settings)


def test_requests_and_tokens_keep_to_their_rates(served):
    slow = EndpointTerms(requests_per_minute=600, at_once=4)
    began = time.monotonic()
    Encoder.load(served.url, endpoint=slow).encode(TEXTS)
    assert len(served.requests) > 2
    assert time.monotonic() - began >= 0.1 * (len(served.requests) - 1)
    with pytest.raises(UserError, match="`tokens_per_minute` is 0: give a number above 0"):
        EndpointTerms(tokens_per_minute=0)


class Asked:
    def __init__(self, answer):
        self.answer, self.said = answer, []

    def confirm(self, question):
        self.said.append(question)
        return self.answer

    def say(self, message):
        self.said.append(message)


def test_the_cost_is_shown_and_asked_about_before_anything_is_sent():
    address = Address.parse("https://host/v1#m")
    found = estimate(address, TEXTS)
    assert found == Estimate(40, 40 * 4 + 30 * 0, 0)
    with pytest.raises(UserError, match=r"About 40 texts with 160 tokens .*will be sent to .*: give `yes` to agree"):
        agree(address, found, EndpointTerms(), SILENT)
    with pytest.raises(UserError, match="was not agreed to, so nothing was sent"):
        agree(address, found, EndpointTerms(), Asked(False))
    asked = Asked(True)
    agree(address, Estimate(5, 2_000_000, 7), EndpointTerms(price=0.13), asked)
    assert asked.said == [
        "About 5 texts with 2,000,000 tokens, about $0.26 at $0.13 per million, will be sent to https://host/v1#m; 7 "
        "more were paid for before. Go on?"
    ]
    told = Asked(None)
    agree(address, found, EndpointTerms(yes=True), told)
    assert told.said == ["About 40 texts with 160 tokens will be sent to https://host/v1#m"]


def test_one_question_is_asked_of_an_index_of_an_endpoint(served, tmp_path):
    from ibkd_retrieval import build_index, open_index

    build_index({str(number): text for number, text in enumerate(TEXTS)}, served.url, tmp_path / "i", yes=True)
    hits = open_index(tmp_path / "i").search("text number 7", k=1)
    assert (hits[0].doc_id, round(hits[0].score, 5)) == ("7", 1.0)
