"""The embeddings endpoint, asked by OpenAI's own client and by plain HTTP."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.searching import HashEncoder, searcher
from helpers.tiny_models import save_sentence_transformer
from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.serving.limits import Limits

pytest.importorskip("fastapi_offline")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")

from helpers.client import serving

LIMITS = Limits(query=100, k=20, batch=8, waiting=16, inputs=40, seconds=20)
TEXTS = ["a boat on the river", "bread and cheese", "snow ☃ and 𝒟", "the bank of the river"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_sentence_transformer(folder)
    return Encoder.load(folder, device="cpu", dtype="float32", query_prompt="query: ", document_prompt="passage: ")


@pytest.fixture(scope="module")
def client(encoder):
    with serving({}, LIMITS, encoders={"tiny": encoder}) as client:
        yield client


def embed(client, **body):
    return client("POST", "/v1/embeddings", json.dumps(body), {"Content-Type": "application/json"})


def test_openais_client_gets_the_vectors_of_the_encoder_in_both_formats(client, encoder):
    openai = pytest.importorskip("openai")
    api = openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none")
    assert [model.id for model in api.models.list()] == ["tiny"]
    expected = encoder.encode(TEXTS, "document")
    for options in ({}, {"encoding_format": "float"}):  # The client asks for base64 unless told otherwise.
        answer = api.embeddings.create(model="tiny", input=TEXTS, **options)
        assert np.allclose([item.embedding for item in answer.data], expected, atol=1e-6)
        assert [item.index for item in answer.data] == [0, 1, 2, 3]
    tokens = sum(len(ids) for window in encoder.prepare(TEXTS).windows for ids in window.token_ids)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens
    queries = api.embeddings.create(model="tiny", input=TEXTS[0], extra_body={"input_type": "query"})
    assert np.allclose(queries.data[0].embedding, encoder.encode(TEXTS[:1], "query")[0], atol=1e-6)
    assert not np.allclose(queries.data[0].embedding, expected[0], atol=1e-3)
    with pytest.raises(openai.NotFoundError, match="No model 'other' is served here: use one of tiny"):
        api.embeddings.create(model="other", input=TEXTS)


def test_base64_is_little_endian_float32_and_shorter_vectors_have_unit_length(client, encoder):
    answer = embed(client, model="tiny", input=TEXTS, encoding_format="base64", dimensions=4)
    assert answer.status == 200
    got = np.stack([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer.json["data"]])
    cut = encoder.encode(TEXTS, "document")[:, :4]
    assert np.allclose(got, cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6)


def test_concurrent_requests_get_their_own_vectors(client, encoder):
    texts = [f"text number {number}" for number in range(24)]
    expected = encoder.encode(texts, "document")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: embed(client, model="tiny", input=[text, "other"]), texts))
    assert all(answer.status == 200 for answer in answers)
    got = np.array([answer.json["data"][0]["embedding"] for answer in answers])
    assert np.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"input": TEXTS}, 422, "model: Field required."),
        ({"input": [], "model": "tiny"}, 422, "input: 0 texts: send 1 to 40 a request."),
        ({"input": ["x"] * 41, "model": "tiny"}, 422, "input: 41 texts: send 1 to 40 a request."),
        ({"input": ["x", ""], "model": "tiny"}, 422, "input: An empty text has no vector: leave it out."),
        ({"input": [[1, 2]], "model": "tiny"}, 422, "input: Send texts, not token ids"),
        ({"input": "x", "model": "tiny", "dimensions": 999}, 422, "dimensions: vectors of tiny have"),
        ({"input": "x", "model": "tiny", "dimensions": 0}, 422, "dimensions: Input should be greater"),
        ({"input": "x", "model": "tiny", "encoding_format": "int8"}, 422, "encoding_format: Input should be"),
        ({"input": "x", "model": "none"}, 404, "No model 'none' is served here: use one of tiny."),
    ],
)
def test_bad_requests_get_one_sentence_in_openais_form(client, body, status, message):
    answer = embed(client, **body)
    assert answer.status == status
    assert answer.json["error"]["message"].startswith(message)


def test_a_body_larger_than_a_query_is_read_and_one_larger_than_the_limit_is_not(client):
    announced = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
    head, _, body = client.raw(announced).partition(b"\r\n\r\n")
    assert b" 413 " in head.splitlines()[0]
    assert json.loads(body)["error"]["message"] == "The body of a request may have 8,388,608 bytes: send less."
    assert embed(client, model="tiny", input="river " * 50_000).status == 200


def test_without_an_index_there_is_no_search_and_health_names_the_models(client):
    assert client("GET", "/search?q=x").status == 404
    health = client("GET", "/healthz")
    assert (health.status, health.json["indexes"], health.json["models"]) == (200, [], ["tiny"])
    assert client("GET", "/").status == 200


def test_indexes_and_encoders_are_served_side_by_side(tmp_path, encoder):
    ranker = searcher(tmp_path / "a", [Document(f"d{n}", f"text {n}") for n in range(5)], HashEncoder())
    with serving({"index": ranker}, LIMITS, encoders={"tiny": encoder}) as client:
        assert len(client.ask(query="text 3", k=2).json["indexes"][0]["hits"]) == 2
        assert embed(client, model="tiny", input="text 3").status == 200


def test_models_are_named_by_their_folders_and_none_is_served_twice(tmp_path):
    from ibkd_retrieval.progress import SILENT
    from ibkd_retrieval.serving.embeddings import load_served

    options = {"backend": "torch", "dtype": "float32", "device": "cpu", "progress": SILENT}
    for folder in ("a", "b"):
        save_sentence_transformer(tmp_path / folder / "tiny")
    one, two = str(tmp_path / "a" / "tiny"), str(tmp_path / "b" / "tiny")
    assert list(load_served([one], **options)) == ["tiny"]
    assert list(load_served([one, two], **options)) == [one, two]
    with pytest.raises(UserError, match="was given twice: name it once"):
        load_served([one, one], **options)
