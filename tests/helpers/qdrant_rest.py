"""Qdrant's REST API on loopback, as far as the export asks it, over the engine of Qdrant Edge."""

import json
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

from helpers import loopback


class Collections:
    """Collections with vectors are shards of Qdrant Edge; those without are lists of payloads."""

    def __init__(self, folder: Path) -> None:
        from qdrant_client import QdrantClient

        self.folder, self.shards, self.ledgers = folder, {}, {}
        self.described = QdrantClient(":memory:")
        self.break_next, self.keys = False, set()

    def answer(self, method: str, path: str, body: dict) -> object:
        import qdrant_edge as edge

        name, _, rest = path.partition("?")[0].removeprefix("/collections/").partition("/")
        if rest == "exists":
            return {"exists": name in self.shards or name in self.ledgers}
        if not rest:
            return self._collection(method, name, body)
        if rest == "points" and method == "PUT":
            return self._upsert(name, body)
        if name in self.ledgers:
            return {"points": [{"id": at, "payload": each} for at, each in enumerate(self.ledgers[name])]}
        shard = self.shards[name]
        if rest == "points/count":
            return {"count": shard.count(edge.CountRequest(exact=True))}
        if rest == "points/scroll":
            points, _ = shard.scroll(edge.ScrollRequest(limit=body["limit"], with_payload=True, with_vector=True))
            return {"points": [{"id": str(p.id), "payload": p.payload, "vector": list(p.vector)} for p in points]}
        answers = []
        for asked in body["searches"]:
            query = edge.Query.Nearest(asked["query"]["nearest"])
            params = edge.SearchParams(hnsw_ef=asked["params"]["hnsw_ef"])
            request = edge.QueryRequest(query=query, limit=asked["limit"], params=params, with_payload=True)
            found = shard.query(request)
            answers.append(
                {"points": [{"id": str(p.id), "version": 0, "score": p.score, "payload": p.payload} for p in found]}
            )
        return answers

    def _collection(self, method: str, name: str, body: dict) -> object:
        import qdrant_edge as edge
        from qdrant_client import models

        if method == "GET":
            return self.described.get_collection(name).model_dump(mode="json")
        if method == "PATCH":
            self.shards[name].optimize()
        elif method == "DELETE":
            self.described.delete_collection(name)
            self.ledgers.pop(name, None)
            if name in self.shards:
                self.shards.pop(name).close()
                shutil.rmtree(self.folder / name)
        else:
            vectors = body["vectors"]
            size = vectors.get("size")
            assert not size or (vectors["distance"], body["optimizers_config"]["indexing_threshold"]) == ("Dot", 0)
            made = models.VectorParams(size=size, distance="Dot") if size else {}
            self.described.create_collection(name, vectors_config=made)
            if size:
                config = edge.EdgeConfig(vectors={"": edge.EdgeVectorParams(size=size, distance=edge.Distance.Dot)})
                (self.folder / name).mkdir(parents=True)
                self.shards[name] = edge.EdgeShard.create(str(self.folder / name), config)
            else:
                self.ledgers[name] = []
        return True

    def _upsert(self, name: str, body: dict) -> object:
        import qdrant_edge as edge

        if name in self.ledgers:
            self.ledgers[name] += [each["payload"] for each in body["points"]]
        else:
            batch = body["batch"]
            rows = zip(batch["ids"], batch["vectors"], batch["payloads"], strict=True)
            self.shards[name].update(edge.UpdateOperation.upsert_points([edge.Point(*row) for row in rows]))
        return {"operation_id": 0, "status": "completed"}


@contextmanager
def served(folder: Path):
    """Serve an empty database. Its attribute `break_next` closes the next connection without an answer."""
    collections = Collections(folder)
    lock = threading.Lock()

    class Handler(loopback.Handler):
        def _answer(self) -> None:
            body = self.body()
            collections.keys.add(self.headers.get("api-key"))
            if collections.break_next:
                collections.break_next, self.close_connection = False, True
                return
            with lock:
                result = collections.answer(self.command, self.path, json.loads(body or b"{}"))
            self.answer_json(200, {"result": result, "status": "ok", "time": 0.0})

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    with loopback.listening(Handler) as collections.url:
        yield collections
