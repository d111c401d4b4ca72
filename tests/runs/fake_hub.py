"""A Hugging Face hub on this machine, with as much of its HTTP interface as adapters need; huggingface_hub is the real one.

Repositories are lists of commits, each a dictionary of files. Who writes needs the token TOKEN.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_ours"


class FakeHub:
    """Attributes: address; repositories, "user/name" -> commits, oldest first; requests, such as "GET /api/models/a/b";
    gated and private, names."""

    def __init__(self) -> None:
        self.repositories: dict[str, list[dict[str, bytes]]] = {}
        self.requests: list[str] = []
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.address = ""

    def files(self, name: str) -> dict[str, bytes]:
        """Of the newest commit."""
        return self.repositories[name][-1]

    def commit_ids(self, name: str) -> list[str]:
        return [_id(f"{name} {number}") for number in range(len(self.repositories[name]))]

    def commit(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit's id and its files."""
        commits = dict(zip(self.commit_ids(name), self.repositories[name], strict=True))
        wanted = [*commits][-1] if revision == "main" else revision
        return (wanted, commits[wanted]) if wanted in commits else None


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(_Handler):
        _hub = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    _hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *parts: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._hub.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(?:revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if info is None and file is None:
            return self._answer(404, {"error": f"the fake hub has no {path}"})
        name, revision, wanted = (*(info or file).groups(), None)[:3]
        if name not in self._hub.repositories:
            return self._answer(401, {"error": "Repository Not Found"}, "RepoNotFound")  # as the real one: it may be private
        if name in self._hub.gated:
            return self._answer(403, {"error": f"Access to model {name} is restricted."}, "GatedRepo")
        if (commit := self._hub.commit(name, revision or "main")) is None:
            return self._answer(404, {"error": f"Invalid rev id: {revision}"}, "RevisionNotFound")
        sha, files = commit
        if wanted is not None:
            if wanted not in files:
                return self._answer(404, {"error": "Entry not found"}, "EntryNotFound")
            return self._answer(200, files[wanted], **{"X-Repo-Commit": sha, "ETag": f'"{_id(files[wanted])}"'})
        if "/tree/" in path:
            rows = [{"type": "file", "path": path, "size": len(files[path]), "oid": _id(files[path])} for path in files]
            return self._answer(200, rows)
        return self._answer(200, {"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]})

    def do_POST(self) -> None:
        self._hub.requests.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"warnings": [], "errors": _faults(json.loads(body)["content"])})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            answer = {"url": f"{self._hub.address}/{name}", "id": name, "name": name}
            if name in self._hub.repositories:
                return self._answer(409, {"error": "You already created this model repo", **answer})
            if asked.get("private") or asked.get("visibility") == "private":
                self._hub.private.add(name)
            self._hub.repositories[name] = [{".gitattributes": b"*.safetensors filter=lfs\n"}]
            return self._answer(200, answer)
        repository = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path)
        if repository is None:
            return self._answer(404, {"error": f"the fake hub has no {self.path}"})
        name, verb = repository.groups()
        if verb == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            return self._answer(
                200, {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
            )
        files = dict(self._hub.files(name))
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                assert line["value"]["encoding"] == "base64"
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self._hub.repositories[name].append(files)
        sha = self._hub.commit(name, "main")[0]
        return self._answer(200, {"success": True, "commitOid": sha, "commitUrl": f"{self._hub.address}/{name}/commit/{sha}"})

    def _answer(self, status: int, content: object, error: str | None = None, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if error is not None:
            headers |= {"X-Error-Code": error, "X-Error-Message": content["error"]}
        for key, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _faults(card: str) -> list[dict[str, str]]:
    """What the hub would refuse in a model card's front matter."""
    fields = yaml.safe_load(card.split("---\n")[1])
    faults = [] if re.fullmatch(r"[\w.-]+/[\w.-]+", fields.get("base_model", "a/b")) else ["base_model must be a repository"]
    faults += [f"{field} must be text" for field in ("library_name", "license") if not isinstance(fields[field], str)]
    return [{"message": fault} for fault in faults]


def _id(content: str | bytes) -> str:
    return hashlib.sha1(content if isinstance(content, bytes) else content.encode()).hexdigest()
