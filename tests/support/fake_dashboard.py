"""The few answers of a cluster's dashboard that a submission asks for, and what was sent to it.

Stands for a cluster where a test is about what is sent, or about answers that no good cluster
gives. What a real one does with it is in test_submit.py.
"""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tuning.user_code.versions import installed_versions


class FakeDashboard(ThreadingHTTPServer):
    """Listens on a free port of the loopback interface; ``token`` is what it asks for, if any."""

    daemon_threads = True

    def __init__(self, token: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.versions = installed_versions()
        self.redirect_to: str | None = None
        self.jobs: list[dict[str, Any]] = []
        self.log = ""  # of each job
        self.files: dict[str, bytes] = {}  # among the logs
        self.seconds_to_answer = 0.0
        self.packages: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, token that came

    def handle_error(self, *arguments: Any) -> None:
        """Nothing: a client that was tired of waiting has gone."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def sent(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The newest package: ``job.json``, and the files by their place."""
        with zipfile.ZipFile(io.BytesIO(list(self.packages.values())[-1])) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        job = json.loads(content.pop("job.json"))
        return job, {name.removeprefix("files/"): data for name, data in content.items()}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if path.startswith("/api/version"):
            return 200, json.dumps({"ray_version": self.versions["ray"]}).encode()
        if path.startswith("/api/v0/nodes"):
            nodes = [{"node_id": "ab", "is_head_node": True, "state": "ALIVE"}]
            return 200, json.dumps({"data": {"result": {"result": nodes}}}).encode()
        if path.startswith("/api/v0/logs/file") and "versions.json" in path:
            return 200, json.dumps(self.versions).encode()
        if path.startswith("/api/v0/logs/file"):
            name = parse_qs(urlsplit(path).query)["filename"][0]
            return (200, self.files[name]) if name in self.files else (404, b"no such file")
        if path.startswith("/api/packages/"):
            return self._package(method, path.rpartition("/")[2], body)
        if path == "/api/jobs/" and method == "GET":
            return 200, json.dumps(self.jobs).encode()
        if path == "/api/jobs/":
            job = {**json.loads(body), "type": "SUBMISSION", "status": "RUNNING"}
            self.jobs.append({**job, "start_time": 1000 + len(self.jobs)})
            names = dict.fromkeys(("job_id", "submission_id"), job["submission_id"])
            return 200, json.dumps(names).encode()
        if path.startswith("/api/jobs/") and path.endswith("/logs"):
            return 200, json.dumps({"logs": self.log}).encode()
        if path.startswith("/api/jobs/"):
            found = [job for job in self.jobs if job["submission_id"] == unquote(path[10:])]
            return (200, json.dumps(found[0]).encode()) if found else (404, b"no such job")
        return 404, b"nothing here"

    def _package(self, method: str, name: str, body: bytes) -> tuple[int, bytes]:
        if method == "PUT":
            self.packages[name] = body
        return (200 if name in self.packages else 404), b""


class _Handler(BaseHTTPRequestHandler):
    server: FakeDashboard

    def _respond(self) -> None:
        header = self.headers.get("Authorization")
        token = None if header is None else header.removeprefix("Bearer ")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path, token))
        time.sleep(self.server.seconds_to_answer)
        if self.server.redirect_to is not None:
            self.send_response(302)
            self.send_header("Location", self.server.redirect_to + self.path)
            self.end_headers()
            return
        status, content = self.server.answer(self.command, self.path, body)
        if self.server.token is not None and token != self.server.token:
            status, content = (401 if token is None else 403), b"refused"
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _respond

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def fake_dashboard(token: str | None = None) -> Iterator[FakeDashboard]:
    server = FakeDashboard(token)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
