"""A stand-in for W&B's server: it takes what W&B's client sends, keeps it, and answers from what it kept.

It speaks the part of W&B's protocol that client 0.31 uses for runs, artifacts, sweeps and workspaces, as observed from
the client. It records what was made for a test and is not W&B's server: it shows what arrives, and not what the real
one makes of it. It checks no login, validates no GraphQL, draws no page, chooses no parameters, and counts a run's
lines at once (W&B's own counts follow some seconds later). Two rules are taken from W&B's documentation, not observed:
a client that begins a run of a known id without resuming it overwrites what was there, and a run of a sweep that ended
while it was preempting is handed out again.
"""

import gzip
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

Json = dict[str, Any]

_USER = "tester"
_API_KEY = "0123456789" * 4  # W&B wants 40 characters
_LOOKS_EVERY_SECONDS = 0.02
_HISTORY, _EVENTS, _SUMMARY, _OUTPUT = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json", "output.log"


def _project(entity: str | None, name: str | None) -> Json:
    return {"id": name, "name": name, "entity": {"id": entity or _USER, "name": entity or _USER}}


def _edges(*nodes: Json) -> Json:
    return {"edges": [{"node": node} for node in nodes]}


_VIEWER = {"id": "u", "entity": _USER, "username": _USER, "email": "", "flags": "{}", "teams": _edges()}
_FIXED: dict[str, Json] = {
    "Viewer": {"viewer": _VIEWER},
    "GetDefaultEntity": {"viewer": _VIEWER},
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": {"entity": {"organization": {"coreWeaveOrganizationId": None}}},
    "ArtifactType": {"project": {"artifact": None}},
    "FetchArtifactDigestAlgorithm": {"project": {"artifactType": None}},
    "XXHashDigestsEnabled": {"entity": {"xxhashDigestsEnabled": False}},
}


@dataclass
class RecordedRun:
    """What came of one run: lines of its streams by file and offset, and the files that were put."""

    entity: str
    project: str
    name: str
    settings: Json = field(default_factory=dict)  # groupName, displayName, tags, sweep ... as first given
    config: Json = field(default_factory=dict)  # key -> {"value": ...}, and W&B's own under `_wandb`
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    sessions: list[str] = field(default_factory=list)  # how each began: "new", "overwrites" or "resumes"
    exit_codes: list[int] = field(default_factory=list)  # of the sessions that ended in order
    preempting: bool = False
    changed: list[int] = field(default_factory=list)  # lines of the history that came again with other content

    @property
    def history(self) -> list[Json]:
        """The rows, in the order of their lines."""
        return [json.loads(line) for _, line in sorted(self.lines.get(_HISTORY, {}).items())]

    @property
    def history_length(self) -> int:
        return len(self.lines.get(_HISTORY, {}))

    @property
    def last_step(self) -> int:
        """Of the history; 0 while it has no row."""
        return json.loads(self._tail(_HISTORY) or '{"_step": 0}')["_step"]

    @property
    def summary(self) -> Json:
        return json.loads(self._tail(_SUMMARY) or "{}")

    def take(self, body: Json) -> None:
        """A request of the client's file stream."""
        for name, chunk in body.get("files", {}).items():
            kept = self.lines.setdefault(name, {})
            for at, line in enumerate(chunk["content"], chunk["offset"]):
                if name == _HISTORY and kept.get(at, line) != line:
                    self.changed.append(at)
                kept[at] = line
        self.preempting |= body.get("preempting", False)
        if body.get("complete"):
            self.exit_codes.append(body["exitcode"])

    def begin(self, how: str, settings: Json) -> None:
        self.sessions.append(how)
        self.settings |= settings
        self.preempting = False
        if how == "overwrites":
            self.lines.clear()
            self.files.clear()
            self.config.clear()

    def bucket(self) -> Json:
        """The run as W&B's GraphQL gives it. The client resumes only what has telemetry, `t`, in its configuration."""
        telemetry = self.config.get("_wandb", {}).get("value", {}).get("t")
        tail = {name: json.dumps([line] if (line := self._tail(name)) else []) for name in (_HISTORY, _EVENTS)}
        return {
            "id": self.name,
            "name": self.name,
            "displayName": self.settings.get("displayName"),
            "sweepName": self.settings.get("sweep"),
            "tags": self.settings.get("tags"),
            "config": json.dumps(self.config),
            "wandbConfig": json.dumps({"t": telemetry} if telemetry else {}),
            "summaryMetrics": json.dumps(self.summary),
            "historyLineCount": self.history_length,
            "eventsLineCount": len(self.lines.get(_EVENTS, {})),
            "logLineCount": len(self.lines.get(_OUTPUT, {})),
            "historyTail": tail[_HISTORY],
            "eventsTail": tail[_EVENTS],
            "project": _project(self.entity, self.project),
        }

    def _tail(self, name: str) -> str | None:
        kept = self.lines.get(name)
        return kept[max(kept)] if kept else None


@dataclass
class RecordedSweep:
    """A sweep, and what its agents are still to be told."""

    name: str
    config: Json
    waiting: list[Json] = field(default_factory=list)
    handed_out: dict[str, Json] = field(default_factory=dict)

    def hand_out(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Has the next free agent train at these values, under this run id."""
        args = {key: {"value": value} for key, value in values.items()}
        self.waiting.append({"type": "run", "run_id": run_id, "program": self.config.get("program"), "args": args})


class WandbServer:
    """Listens on a free port of localhost.

    Attributes:
        runs: by W&B's id of the run.
        sweeps: by name.
        views: saved workspaces by id: the variables of the mutation `upsertView`, with `spec` read from its JSON.
        artifacts: by id, as the client describes them, with their `files` and whether they were `committed`.
        unknown: operations that it could not answer.
        refused: operations that it is to refuse.
        stopping: ids of runs that their agent is to stop at its next heartbeat.
    """

    def __init__(self) -> None:
        self.runs: dict[str, RecordedRun] = {}
        self.sweeps: dict[str, RecordedSweep] = {}
        self.views: dict[str, Json] = {}
        self.artifacts: dict[str, Json] = {}
        self.unknown: list[str] = []
        self.refused: set[str] = set()
        self.stopping: set[str] = set()
        self._agents: dict[str, RecordedSweep] = {}
        self._changed = threading.Condition(threading.RLock())
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables of a process whose W&B is this server; its client sends once a second, its least."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        return inherited | {
            "HOME": str(home),
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": _API_KEY,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120.0) -> bool:
        """Whether the condition came true, looked at after each request and now and then between them."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not condition():
                if time.monotonic() > deadline:
                    return False
                self._changed.wait(_LOOKS_EVERY_SECONDS)
        return True

    def answer(self, method: str, path: str, body: bytes) -> Json:
        with self._changed:
            try:
                if path == "/graphql":
                    return self._graphql(json.loads(body))
                if method == "POST" and path.endswith("/file_stream"):
                    self.runs[path.split("/")[-2]].take(json.loads(body))
                elif method == "PUT":
                    _, kind, key, name = unquote(path).split("/", 3)
                    kept = self.runs[key].files if kind == "run" else self.artifacts[key]["files"]
                    kept[name] = body
                return {}
            finally:
                self._changed.notify_all()

    def _graphql(self, request: Json) -> Json:
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", request["query"])
        name = found[1] if found else request["query"]
        if name in self.refused:
            return {"data": None, "errors": [{"message": "permission denied"}]}
        if name in _FIXED:
            return {"data": _FIXED[name]}
        answer = getattr(self, "_on_" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(), None)
        if answer is None:
            self.unknown.append(name)
            return {"data": None, "errors": [{"message": f"this recorder does not know {name}"}]}
        return {"data": answer(request.get("variables") or {})}

    # A method for each operation, by its name in the client's query. Fields that were not asked for do no harm.

    def _on_run_resume_status(self, given: Json) -> Json:
        run = self.runs.get(given["name"])
        return {"model": _project(given.get("entity"), given["project"]) | {"bucket": run and run.bucket()}}

    def _on_upsert_bucket(self, given: Json) -> Json:
        name = given["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, RecordedRun(given.get("entity") or _USER, given["project"], name))
        if inserted or given.get("host"):  # the first of a session; later ones only bring the configuration
            how = "new" if inserted else "resumes" if given.get("id") else "overwrites"
            run.begin(how, {key: value for key, value in given.items() if value is not None})
        run.config |= json.loads(given.get("config") or "{}")
        return {"upsertBucket": {"bucket": run.bucket(), "inserted": inserted}}

    def _on_create_run_files(self, given: Json) -> Json:
        files = [{"name": name, "uploadUrl": f"{self.url}/run/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _on_create_artifact(self, given: Json) -> Json:
        key = f"artifact{len(self.artifacts)}"
        self.artifacts[key] = given["input"] | {"files": {}, "committed": False}
        sequence = {"latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": key, "state": "PENDING", "artifactSequence": sequence}}}

    def _on_create_artifact_manifest(self, given: Json) -> Json:
        key = given["artifactID"]
        place = {"id": key, "uploadUrl": f"{self.url}/artifact/{key}/{given['name']}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": key, "file": place}}}

    def _on_create_artifact_files(self, given: Json) -> Json:
        files: list[Json] = []
        for asked in given["input"]["artifactFiles"]:
            key, path = asked["artifactID"], f"{asked['artifactID']}/{asked['name']}"
            place = {"uploadUrl": f"{self.url}/artifact/{path}", "uploadHeaders": [], "uploadMultipartUrls": None}
            files.append(place | {"storagePath": path, "artifact": {"id": key}})
        return {"createArtifactFiles": {"files": _edges(*files)}}

    def _on_commit_artifact(self, given: Json) -> Json:
        key = given["artifactID"]
        self.artifacts[key]["committed"] = True
        return {"commitArtifact": {"artifact": {"id": key, "digest": self.artifacts[key]["digest"]}}}

    def _on_upsert_sweep(self, given: Json) -> Json:
        name = f"sweep{len(self.sweeps)}"
        self.sweeps[name] = RecordedSweep(name, yaml.safe_load(given["config"]))
        project = _project(given.get("entityName"), given.get("projectName"))
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def _on_sweep_with_runs(self, given: Json) -> Json:
        sweep = self.sweeps[given["sweep"]]
        return {"project": {"sweep": {"name": sweep.name, "config": yaml.safe_dump(sweep.config), "runs": _edges()}}}

    def _on_create_agent(self, given: Json) -> Json:
        agent = f"agent{len(self._agents)}"
        self._agents[agent] = self.sweeps[given["sweep"]]
        return {"createAgent": {"agent": {"id": agent}}}

    def _on_heartbeat(self, given: Json) -> Json:
        sweep, running = self._agents[given["id"]], json.loads(given["runState"])
        commands: list[Json] = [{"type": "stop", "run_id": name} for name in running if name in self.stopping]
        self.stopping -= set(running)
        if not running:
            for name, command in sweep.handed_out.items():
                if name in self.runs and self.runs[name].preempting:
                    self.runs[name].preempting = False
                    sweep.waiting.append(command | {"type": "resume"})
            commands = [sweep.waiting.pop(0)] if sweep.waiting else [{"type": "exit"}]
            sweep.handed_out |= {command["run_id"]: command for command in commands if "run_id" in command}
        return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}

    def _on_upsert_view2(self, given: Json) -> Json:
        key = given.get("id") or f"view{len(self.views)}"
        inserted = key not in self.views
        self.views[key] = given | {"id": key, "spec": json.loads(given["spec"])}
        return {"upsertView": {"view": {"id": key, "name": given["name"]}, "inserted": inserted}}

    def _on_view(self, given: Json) -> Json:
        found = [
            {"id": key, "displayName": view["displayName"], "spec": json.dumps(view["spec"])}
            for key, view in self.views.items()
            if view["name"] == given["viewName"]
        ]
        return {"project": {"allViews": _edges(*found)}}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # a killed client
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None: ...

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            answer = json.dumps(server.answer(self.command, self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_POST

    return Handler
