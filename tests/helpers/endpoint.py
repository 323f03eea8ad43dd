"""A small embeddings endpoint on loopback that makes the faults it is told to."""

import base64
import contextlib
import hashlib
import json
import threading
import time

import numpy as np

from helpers import loopback


def vector_of(text, dim=32, model="a"):
    """A random unit vector that the text and the model decide."""
    seed = int.from_bytes(hashlib.sha256(f"{model} {text}".encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class Endpoint:
    """Answers with `vector_of`. `faults` are done one a request, and then none.

    A fault is a status, a name of `_FAULTS`, or None for a request without one. `requests` are the bodies that came.
    """

    def __init__(self, dim=32, model="a", most=2048, noise=0.0):
        self.dim, self.model, self.most, self.noise = dim, model, most, noise
        self.faults, self.requests, self.keys, self.headers = [], [], [], {}
        self.always = None
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"{self.address}/v1#tiny"

    @property
    def texts(self):
        """All texts that came, in order."""
        return [text for request in self.requests for text in request["input"]]

    def answer(self, body, fault):
        model, dim = ("b" if fault == "model" else self.model), body.get("dimensions", self.dim)
        dim = dim + 1 if fault == "dim" else dim
        told = body.get("input_type", "")
        vectors = [vector_of(told + text, dim, model) for text in body["input"]]
        noise = np.random.default_rng().standard_normal((len(vectors), dim)) * self.noise / np.sqrt(dim)
        vectors = [(vector + each).astype(np.float32) for vector, each in zip(vectors, noise, strict=True)]
        if fault == "nan":
            vectors[0][0] = np.nan
        if fault == "longer":
            vectors[0] = np.append(vectors[0], np.float32(1))
        if fault == "fewer":
            vectors.pop()
        as_text = body.get("encoding_format") == "base64"
        shown = [base64.b64encode(v.tobytes()).decode() if as_text else v.tolist() for v in vectors]
        data = [{"object": "embedding", "index": i, "embedding": each} for i, each in enumerate(shown)]
        tokens = sum(len(text.split()) for text in body["input"])
        # In another order: the places are told by `index`.
        return {"object": "list", "data": data[::-1], "model": "tiny", "usage": {"prompt_tokens": tokens}}


def _handler(endpoint):
    class Handler(loopback.Handler):
        def do_POST(self):  # noqa: N802
            body = json.loads(self.body())
            with endpoint.lock:
                endpoint.requests.append(body)
                endpoint.keys.append(self.headers["Authorization"])
                fault = endpoint.faults.pop(0) if endpoint.faults else endpoint.always
            if fault == "slow":
                time.sleep(1.0)
            if fault is None and len(body["input"]) > endpoint.most:
                fault = 413
            if isinstance(fault, int):
                # As some servers do, this one repeats what it was sent.
                said = {"error": {"message": f"refused: {body} {self.headers['Authorization']}", "code": "some_code"}}
                self.reply(fault, json.dumps(said).encode())
                return
            content = json.dumps(endpoint.answer(body, fault)).encode()
            if fault == "cut json":
                content = content[: len(content) // 2]
            if fault == "cut":
                self.reply(200, content[: len(content) // 2], len(content))
                self.close_connection = True
                return
            if fault == "page":
                self.reply(200, b"<html>Welcome</html>", kind="text/html")
                return
            self.reply(200, content)

        def reply(self, status, content, length=None, kind="application/json"):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length or len(content)))
            if status == 429:
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

    return Handler


@contextlib.contextmanager
def endpoint(**settings):
    """Run an endpoint."""
    made = Endpoint(**settings)
    with loopback.listening(_handler(made)) as made.address:
        yield made
