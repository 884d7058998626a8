"""A stand-in for a Weights & Biases server on this machine: accepts, refuses, hangs or fails.

The accepting one answers the few questions that wandb asks while it sends a run, keeps what it
gets, and can be told to stop answering in the middle.
"""

import contextlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class StandIn:
    """What the server was told.

    Args:
        url: Its address.
        runs: The arguments of the last upsert of each run.
        lines: History by run, indexed by the offset that the client named.
        summaries: Last summary by run.
        files: Names of the files uploaded.
        artifacts: Names of the artifacts committed.
        reports: Arguments of each report saved.
        finished: Exit code by run.
        silent: While set, requests are accepted and never answered.
        status: Answer to every request; anything but 200 is an error.
    """

    url: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)
    silent: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    status: int = 200
    unknown: list[str] = field(default_factory=list)

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL operation."""
        method = getattr(self, f"_{operation}", None)
        if method is None:
            self.unknown.append(operation)
            return {}
        return method(variables)

    def stream(self, run: str, body: dict[str, Any]) -> None:
        """Take a piece of a run's file stream."""
        files = body.get("files") or {}
        history = files.get("wandb-history.jsonl")
        if history:
            for place, line in enumerate(history["content"], history["offset"]):
                self.lines.setdefault(run, {})[place] = json.loads(line)
        summary = files.get("wandb-summary.json")
        if summary:
            self.summaries[run] = json.loads(summary["content"][-1])
        if body.get("complete"):
            self.finished[run] = body.get("exitcode", 0)

    def _Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        del variables
        viewer = {"id": "dg==", "entity": "me", "username": "me", "email": "", "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": []}}}

    def _GetDefaultEntity(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        del variables
        return {"viewer": {"id": "dg==", "entity": "me"}}

    def _ProjectInternalId(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        del variables
        return {"project": {"internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}}

    def _GetProjects(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        del variables
        project = {"id": "cA==", "name": "mas-avalanche", "entityName": "me", "isBenchmark": False}
        project |= {"createdAt": "2026-01-01T00:00:00Z", "user": None}
        page = {"endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": project, "cursor": "0"}], "pageInfo": page}}

    def _upsertView(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.reports.append(variables)
        view = {key: variables[key] for key in ("name", "displayName", "description", "spec")}
        view |= {"id": "VmlldzoxMjM=", "type": variables["type"], "updatedAt": None}
        view["project"] = {"id": "cA==", "name": variables["projectName"], "entityName": "me"}
        return {"upsertView": {"view": view, "inserted": True}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = variables["name"]
        inserted = name not in self.runs
        given = {key: value for key, value in variables.items() if value is not None}
        self.runs.setdefault(name, {}).update(given)
        project = {"id": "cA==", "name": variables["project"]}
        bucket = {
            "id": "cg==",
            "name": name,
            "displayName": name,
            "description": None,
            "config": self.runs[name].get("config", "{}"),
            "sweepName": None,
            "historyLineCount": len(self.lines.get(name, {})),
            "project": project | {"entity": {"id": "ZQ==", "name": "me"}},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = variables["name"]
        if name not in self.runs:
            return {"model": None}
        lines = self.lines.get(name, {})
        bucket = {
            "name": name,
            "id": "cg==",
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(lines[max(lines)])] if lines else []),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(self.summaries.get(name, {})),
            "config": self.runs[name].get("config", "{}"),
            "tags": self.runs[name].get("tags", []),
            "wandbConfig": '{"t": 1}',
        }
        entity = {"name": "me", "id": "ZQ=="}
        return {"model": {"id": "cA==", "name": "p", "entity": entity, "bucket": bucket}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        files = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": "cg==", "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        del variables
        return {"project": {"artifact": None}}

    def _CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = variables["input"]["artifactCollectionName"]
        self.artifacts.append(name)
        # Committed: as if the server knew these files already, so none is asked for.
        artifact = {"id": f"artifact-{name}", "state": "COMMITTED"}
        return {"createArtifact": {"artifact": artifact | {"artifactSequence": _SEQUENCE}}}


_SEQUENCE = {"id": "cw==", "latestArtifact": None}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address  # clients are killed on purpose


@contextlib.contextmanager
def serve(stand_in: StandIn | None = None) -> Iterator[StandIn]:
    """Run the stand-in for as long as the block lasts."""
    state = stand_in or StandIn()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if state.silent.is_set():
                state.closing.wait()
                self.close_connection = True
                return
            answer: dict[str, Any] = {"errors": [{"message": "the stand-in always fails"}]}
            if state.status == 200:
                answer = self._answer(text)
            body = json.dumps(answer).encode()
            self.send_response(state.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _answer(self, text: bytes) -> dict[str, Any]:
            if self.path == "/graphql":
                request = json.loads(text)
                operation = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
                assert operation is not None
                data = state.answer(operation.group(1), request.get("variables") or {})
                return {"data": data}
            if self.path.startswith("/upload/"):
                state.files.append(self.path.removeprefix("/upload/"))
            elif self.path.endswith("/file_stream"):
                state.stream(self.path.split("/")[-2], json.loads(text))
            return {}

        do_GET = do_POST = do_PUT = _handle  # noqa: N815

        def log_message(self, *args: Any) -> None:
            del args

    server = _Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def refusing() -> Iterator[StandIn]:
    """Give an address at which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        yield StandIn(url=f"http://127.0.0.1:{held.getsockname()[1]}")


@contextlib.contextmanager
def hanging() -> Iterator[StandIn]:
    """Accept connections and never answer."""
    state = StandIn()
    state.silent.set()
    with serve(state):
        yield state


@contextlib.contextmanager
def failing() -> Iterator[StandIn]:
    """Answer every request with an error."""
    with serve(StandIn(status=500)) as state:
        yield state
