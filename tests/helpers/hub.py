"""A stand-in for the Hugging Face hub on loopback: repositories, branches, LFS and commits, as its client asks."""

import base64
import json
from contextlib import contextmanager
from urllib.parse import unquote

from helpers import loopback

TOKEN = "hf_stub_secret"


class Hub:
    """What was pushed: `repositories[name]` has `private` and the files of each branch."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.fail_at = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        path = unquote(path.partition("?")[0])
        if self.fail_at and self.fail_at in path:
            return 500, {"error": "the hub is on fire"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.repositories:
                return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
            private = asked.get("visibility") == "private" or asked.get("private", False)
            self.repositories[name] = {"private": private, "main": {}}
            return 200, {"url": f"{self.address}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if method == "PUT":
            self.blobs[path.rpartition("/")[2]] = body
            return 200, {}
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = [each | {"actions": {"upload": {"href": f"{self.address}/lfs/{each['oid']}"}}} for each in objects]
            return 200, {"transfer": "basic", "objects": upload}
        user, name, *rest = path.removeprefix("/api/models/").split("/")
        repository = self.repositories[f"{user}/{name}"]
        if not rest:
            return 200, {"id": f"{user}/{name}", "private": repository["private"], "siblings": [], "tags": []}
        if rest[0] == "branch":
            repository.setdefault(rest[1], dict(repository["main"]))
            return 200, {}
        if rest[0] == "preupload":
            asked = json.loads(body)["files"]
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in asked
            ]
            return 200, {"files": files}
        if rest[0] == "commit":
            for line in filter(None, body.split(b"\n")):
                said = json.loads(line)
                value = said["value"]
                if said["key"] == "file":
                    repository[rest[1]][value["path"]] = base64.b64decode(value["content"])
                elif said["key"] == "lfsFile":
                    repository[rest[1]][value["path"]] = self.blobs[value["oid"]]
            return 200, {"commitUrl": f"{self.address}/{user}/{name}/commit/c0ffee", "commitOid": "c0ffee"}
        return 404, {"error": path}


@contextmanager
def served():
    """Serve an empty hub. It takes one token."""
    hub = Hub()

    class Handler(loopback.Handler):
        def _answer(self) -> None:
            body = self.body()
            if "chunked" in self.headers.get("transfer-encoding", ""):
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            hub.asked.append((self.command, self.path))
            allowed = self.command == "PUT" or self.headers.get("authorization") == f"Bearer {TOKEN}"
            answer = hub.answer(self.command, self.path, body) if allowed else (401, {"error": "who are you"})
            self.answer_json(*answer)

        do_GET = do_POST = do_PUT = _answer  # noqa: N815

    with loopback.listening(Handler) as hub.address:
        yield hub
