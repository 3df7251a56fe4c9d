"""The Hugging Face hub as its client sees it when it publishes: repositories that are made, filled by commits with
large files beside them, and read again.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

TOKEN, USER = "hf_of_the_tests", "ada"
LARGE = (".safetensors", ".parquet", ".png")  # as the hub's .gitattributes has it


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    commits: list[str] = field(default_factory=list[str])  # their messages

    @property
    def sha(self) -> str:
        return f"{len(self.commits):040x}"


class Answer(Exception):
    def __init__(self, status: int, body: Any = None, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.headers = status, dict(headers or {})
        self.body = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()


class PublishingHub:
    """Knows one user with one token. `refuse` has statuses for paths that begin so."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}  # large files, by digest
        self.refuse: dict[str, int] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = unquote(self.path.partition("?")[0])
                hub.asked.append(f"{self.command} {path}")
                try:
                    hub.answer(self.command, path, body, self.headers.get("Authorization") == f"Bearer {TOKEN}")
                except Answer as answer:
                    self.send_response(answer.status)
                    for key, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                        self.send_header(key, value)
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(answer.body)

            do_GET = do_HEAD = do_POST = do_PUT = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, command: str, path: str, body: bytes, logged_in: bool) -> None:
        for begins, status in self.refuse.items():
            if path.startswith(begins):
                raise Answer(status, {"error": "refused"})
        if path.startswith("/stored/"):  # as a signed link: without the token
            digest = path.removeprefix("/stored/")
            assert hashlib.sha256(body).hexdigest() == digest
            self.stored[digest] = body
            raise Answer(200)
        if not logged_in:
            raise Answer(401)
        if path == "/api/whoami-v2":
            raise Answer(200, {"type": "user", "name": USER, "orgs": []})
        if path == "/api/repos/create":
            self.create(json.loads(body))
        if path == "/api/validate-yaml":
            raise Answer(200, {"errors": [], "warnings": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            self.batch(json.loads(body))
        if path.startswith("/api/models/"):
            self.model(path.removeprefix("/api/models/"), body)
        self.file(path)

    def create(self, asked: Mapping[str, Any]) -> None:
        name = f"{asked['organization'] or USER}/{asked['name']}"
        if not name.startswith(f"{USER}/"):
            raise Answer(403)
        if name in self.repositories:
            raise Answer(409)
        private = asked.get("private", asked.get("visibility") == "private")
        self.repositories[name] = Repository(bool(private))
        raise Answer(200, {"url": f"{self.url}/{name}", "id": name})

    def batch(self, asked: Mapping[str, Any]) -> None:
        def upload(one: Mapping[str, Any]) -> dict[str, Any]:
            if one["oid"] in self.stored:
                return dict(one)
            return {**one, "actions": {"upload": {"href": f"{self.url}/stored/{one['oid']}"}}}

        raise Answer(200, {"transfer": "basic", "objects": [upload(one) for one in asked["objects"]]})

    def model(self, path: str, body: bytes) -> None:
        owner, name, *rest = path.split("/", 3)
        repository = self.repositories.get(f"{owner}/{name}")
        if repository is None:
            raise Answer(404, headers={"X-Error-Code": "RepoNotFound"})
        kind = rest[0] if rest else "revision"
        if kind == "preupload":
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            raise Answer(200, {"files": modes})
        if kind == "commit":
            self.commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])
        about = {"id": f"{owner}/{name}", "sha": repository.sha, "private": repository.private, "tags": []}
        if kind == "tree":
            raise Answer(200, [self.described(path, content) for path, content in repository.files.items()])
        raise Answer(200, about | {"siblings": [{"rfilename": path} for path in repository.files]})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        """All of it or nothing."""
        repository = self.repositories[name]
        header, *changes = lines
        added: dict[str, bytes] = {}
        for change in changes:
            value = change["value"]
            large = change["key"] == "lfsFile"
            added[value["path"]] = self.stored[value["oid"]] if large else base64.b64decode(value["content"])
        repository.files |= added
        repository.commits.append(header["value"]["summary"])
        url = f"{self.url}/{name}/commit/{repository.sha}"
        raise Answer(200, {"commitUrl": url, "commitOid": repository.sha, "pullRequestUrl": None})

    def described(self, path: str, content: bytes) -> dict[str, Any]:
        large = {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}
        about = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        return about | (large if path.endswith(LARGE) else {})

    def file(self, path: str) -> None:
        repo, _, rest = path.removeprefix("/").partition("/resolve/")
        repository = self.repositories.get(repo)
        if repository is None:
            raise Answer(404, headers={"X-Error-Code": "RepoNotFound"})
        _, _, name = rest.partition("/")
        headers = {"X-Repo-Commit": repository.sha}
        if name not in repository.files:
            raise Answer(404, headers=headers | {"X-Error-Code": "EntryNotFound"})
        content = repository.files[name]
        kind = hashlib.sha256 if name.endswith(LARGE) else hashlib.sha1
        raise Answer(200, content, headers | {"ETag": f'"{kind(content).hexdigest()}"'})
