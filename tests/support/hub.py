"""The Hugging Face hub as its client sees it: a server with one model, and the cache that the client keeps on disk."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

NAME = "somebody/an-lm"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_name(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def is_large(path: Path) -> bool:
    return path.suffix in (".safetensors", ".zst")


def commit(number: int) -> str:
    return f"{number:040x}"


class Hub:
    """Serves commits of one model; `branches` may be moved."""

    def __init__(self, commits: Mapping[str, Path], branches: Mapping[str, str]) -> None:
        self.commits, self.branches = dict(commits), dict(branches)
        self.asked: list[str] = []  # "GET /path" in order
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer()

            def do_GET(self) -> None:
                self.answer()

            def answer(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                found = hub.find(self.path.split("?")[0].replace("%2F", "/"))
                if found is None:
                    wants_revision = "/revision/" in self.path and NAME in self.path
                    code = "RevisionNotFound" if wants_revision else "RepoNotFound"
                    return self.send({"X-Error-Code": code}, b"{}", 404)
                return self.send(*found)

            def send(self, headers: Mapping[str, str], body: bytes, status: int = 200) -> None:
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def weights_asked(self) -> list[str]:
        return [one for one in self.asked if one.endswith(".safetensors")]

    def find(self, path: str) -> tuple[dict[str, str], bytes] | None:
        api, resolve = f"/api/models/{NAME}", f"/{NAME}/resolve/"
        if path.startswith(resolve):
            revision, _, file = path.removeprefix(resolve).partition("/")
            at = self.commits.get(revision)
            return None if at is None or not (at / file).is_file() else self.file(revision, at / file)
        kind, _, revision = path.removeprefix(api).strip("/").partition("/") if path.startswith(api) else ("no", "", "")
        sha = self.branches.get(revision or "main", revision)
        if sha not in self.commits or kind not in ("", "revision", "tree"):
            return None
        root = self.commits[sha]
        files = sorted(path for path in root.rglob("*") if path.is_file())
        if kind == "tree":
            listed = [
                {"type": "file", "path": str(f.relative_to(root)), **self.described(f, "oid", "oid")} for f in files
            ]
            return {"Content-Type": "application/json"}, json.dumps(listed).encode()
        siblings = [{"rfilename": str(f.relative_to(root)), **self.described(f, "blobId", "sha256")} for f in files]
        about = {"id": NAME, "modelId": NAME, "sha": sha, "private": False, "tags": [], "siblings": siblings}
        return {"Content-Type": "application/json"}, json.dumps(about).encode()

    def described(self, path: Path, name: str, digest: str) -> dict[str, Any]:
        size = path.stat().st_size
        large = {"lfs": {digest: sha256(path), "size": size, "pointerSize": 130}} if is_large(path) else {}
        return {"size": size, name: git_name(path), **large}

    def file(self, revision: str, path: Path) -> tuple[dict[str, str], bytes]:
        etag = sha256(path) if is_large(path) else git_name(path)
        return {"ETag": f'"{etag}"', "X-Repo-Commit": revision}, path.read_bytes()


def write_cache(
    cache: Path, sha: str, folder: Path, branch: str = "main", *, name: str = NAME, kind: str = "models"
) -> Path:
    """Lays out a checkpoint or a dataset as the hub's client does, and returns the snapshot."""
    repository = cache / f"{kind}--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / sha
    for part in (repository / "blobs", repository / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / branch).write_text(sha)
    for path in (one for one in folder.rglob("*") if one.is_file()):
        blob = repository / "blobs" / (sha256(path) if is_large(path) else git_name(path))
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def python(script: str, home: Path, **environment: str) -> str:
    """What a script prints last in a process of its own, whose hub's cache is in `home`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=kept | {"HF_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout.strip().splitlines()[-1]
