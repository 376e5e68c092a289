"""A Ray cluster's dashboard over HTTP: its jobs, and the files that its head shows.

It speaks Ray's REST API for jobs and logs. Ray's own client of it takes seconds to import, waits
for ever where nobody answers, and goes to $RAY_ADDRESS whatever address it is given.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import InputError, RunFailed
from tuning.doctor.auth_token import read_token, token_file

DEFAULT_PORT = 8265  # of Ray's dashboard
_ANSWER_SECONDS = 20.0
_FIRST_ANSWER_SECONDS = 5.0
_UPLOAD_SECONDS = 600.0
_FOLLOW_SECONDS = 300.0  # that a file may not grow, before we ask anew
_READ_SECONDS = 86_400  # that the cluster may take to send a whole file
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Unreachable(RunFailed):
    """The dashboard does not answer, or not any more."""


@dataclass(frozen=True)
class Job:
    """A job of Ray's, as the cluster tells of it."""

    id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    exit_code: int | None  # None while it runs, and where its process ended without one
    message: str
    metadata: Mapping[str, str]
    started: float  # this and the next: seconds since the Unix epoch
    ended: float | None

    @property
    def has_ended(self) -> bool:
        return self.status in _ENDED


class Dashboard:
    """The dashboard at one address. Use ``connect`` to get one that is known to answer."""

    def __init__(self, url: str, token: str | None) -> None:
        """Ask at ``url``; the token goes into the header of requests, and nowhere else."""
        self.url = url
        self._token = token
        self._head: str | None = None
        # No proxy, and no following to elsewhere: the token is for this address alone.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())

    def ray_version(self) -> str:
        """Ray's version on the cluster."""
        answer = self._json("GET", "/api/version", seconds=_FIRST_ANSWER_SECONDS)
        return str(answer["ray_version"])

    def jobs(self) -> list[Job]:
        """All jobs that were submitted, oldest first."""
        found = [_job(each) for each in self._json("GET", "/api/jobs/") if each["submission_id"]]
        return sorted(found, key=lambda job: job.started)

    def job(self, job_id: str) -> Job | None:
        """The job of that id; None if the cluster knows none."""
        answer = self._send("GET", f"/api/jobs/{_quoted(job_id)}", missing_is_fine=True)
        return None if answer is None else _job(self._parse(answer))

    def submit(
        self,
        job_id: str,
        entrypoint: str,
        *,
        metadata: Mapping[str, str],
        runtime_env: Mapping[str, Any],
    ) -> None:
        """Start a job on the head.

        Raises:
            RunFailed: the cluster does not take it, as where the id is in use.
        """
        document = {
            "submission_id": job_id,
            "entrypoint": entrypoint,
            "metadata": dict(metadata),
            "runtime_env": dict(runtime_env),
        }
        self._json("POST", "/api/jobs/", document=document, seconds=60.0)

    def stop(self, job_id: str) -> None:
        """Ask a job to end; it is told by SIGTERM."""
        self._json("POST", f"/api/jobs/{_quoted(job_id)}/stop")

    def delete(self, job_id: str) -> None:
        """Have the cluster forget a job that has ended."""
        self._json("DELETE", f"/api/jobs/{_quoted(job_id)}")

    def upload(self, archive: bytes) -> str:
        """Send a ZIP archive, unless it is there; returns the URI that Ray knows it by."""
        name = f"_ray_pkg_{hashlib.sha1(archive, usedforsecurity=False).hexdigest()}.zip"
        path = f"/api/packages/gcs/{name}"
        found = self._send("GET", path, missing_is_fine=True)
        if found is None:
            found = self._send("PUT", path, body=archive, seconds=_UPLOAD_SECONDS)
        assert found is not None
        found.close()  # having asked for it keeps it from being thrown away for ten minutes
        return f"gcs://{name}"

    def files(self, pattern: str) -> list[str]:
        """Names of files in the head's folder of logs that match a glob pattern."""
        answer = self._json("GET", "/api/v0/logs", query={"glob": pattern, **self._on_head()})
        found = answer["data"]["result"]
        return sorted(name for names in found.values() for name in names if name[-1:] != "/")

    def open_file(self, name: str, *, follow: bool = False) -> http.client.HTTPResponse | None:
        """A file of the head's folder of logs, as a stream to be closed; None if there is none.

        Args:
            name: below that folder; links out of it are followed.
            follow: the stream goes on as the file grows, as ``tail -f`` does.
        """
        kind = "stream" if follow else "file"
        query = {"filename": name, "lines": "-1", "timeout": str(_READ_SECONDS), **self._on_head()}
        seconds = _FOLLOW_SECONDS if follow else _ANSWER_SECONDS
        path = f"/api/v0/logs/{kind}"
        return self._send("GET", path, query=query, seconds=seconds, missing_is_fine=True)

    def read_some(self, stream: http.client.HTTPResponse) -> bytes:
        """What has come of a stream, once something has; nothing at its end.

        Raises:
            Unreachable: the connection is lost, or has been silent for too long.
        """
        with self._answering():
            return stream.read1(1 << 20)

    def read(self, name: str) -> bytes | None:
        """All of a file of the head's folder of logs; None if there is none, or nothing in it.

        The two can not be told apart: Ray's answer to a missing file is an error or an empty one.
        """
        stream = self.open_file(name)
        if stream is None:
            return None
        with stream, self._answering():
            return stream.read() or None

    def download(self, name: str, path: Path) -> None:
        """Write a file of the head's folder of logs, of which ``files`` knows, to ``path``."""
        stream = self.open_file(name)
        if stream is None:
            raise RunFailed(f"the cluster at {self.url} no longer has {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with stream, path.open("wb") as file:
            while some := self.read_some(stream):
                file.write(some)

    def _on_head(self) -> dict[str, str]:
        """Which node is meant, for requests that must say it."""
        if self._head is None:
            answer = self._json("GET", "/api/v0/nodes", query={"limit": "10000"})
            nodes = answer["data"]["result"]["result"]
            heads = [n for n in nodes if n["is_head_node"] and n["state"] == "ALIVE"]
            if not heads:
                raise RunFailed(f"the cluster at {self.url} has no living head node")
            self._head = str(heads[0]["node_id"])
        return {"node_id": self._head}

    def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        document: Any = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> Any:
        body = None if document is None else json.dumps(document).encode()
        answer = self._send(method, path, query=query, body=body, seconds=seconds)
        assert answer is not None
        return self._parse(answer)

    def _parse(self, answer: http.client.HTTPResponse) -> Any:
        with answer, self._answering():
            return json.load(answer)

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        seconds: float = _ANSWER_SECONDS,
        missing_is_fine: bool = False,
    ) -> http.client.HTTPResponse | None:
        """Send a request; returns its answer, which is to be closed, or None for what is missing.

        ``seconds`` may pass until the first byte comes, and between any two.
        """
        url = self.url + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        request = urllib.request.Request(url, data=body, method=method)
        if body is not None:
            request.add_header("Content-Type", "application/json")
        if self._token is not None:
            request.add_header("Authorization", f"Bearer {self._token}")
        with self._answering():
            try:
                answer: http.client.HTTPResponse = self._opener.open(request, timeout=seconds)
                return answer
            except urllib.error.HTTPError as error:
                with error:
                    status, text = error.code, error.read(100_000).decode(errors="replace").strip()
        if missing_is_fine and _is_missing(status, text):
            return None
        raise self._explained(status, text)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(_silence(self.url, error)) from None

    def _explained(self, status: int, text: str) -> Exception:
        """What an answer that is an error means to a person."""
        if status == 401:
            return InputError(
                f"the cluster at {self.url} answers only to who has its token, and there is none "
                f"in $RAY_AUTH_TOKEN and no file {str(token_file())!r}; copy ~/.ray/auth_token of "
                "the cluster's head there, mode 600"
            )
        if status == 403 and self._token is not None:
            return InputError(
                f"the cluster at {self.url} refuses the token in {_source_of_token()}: that is "
                "another cluster's; the right one is in ~/.ray/auth_token of the cluster's head"
            )
        last_line = text.splitlines()[-1] if text else "no reason is given"
        return RunFailed(f"the cluster at {self.url} answers with error {status}: {last_line}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


def connect(address: str, option: str = "--address") -> Dashboard:
    """The dashboard at an address, once it has answered. It gets the token only if it asks.

    Raises:
        InputError: that is no address, nobody answers there, or the token is missing or wrong.
    """
    url = dashboard_url(address, option)
    try:
        without = Dashboard(url, None)
        try:
            without.ray_version()
            return without
        except InputError:
            token = read_token()
            if token is None:
                raise
        dashboard = Dashboard(url, token)
        dashboard.ray_version()
        return dashboard
    except Unreachable as error:
        raise InputError(
            f"{option} = {address!r}: {error}; is the cluster up? Its dashboard, at port "
            f"{DEFAULT_PORT} unless it was started otherwise, is wanted; from outside, --cluster "
            "FILE reaches it through SSH"
        ) from None
    except (ValueError, KeyError, RunFailed) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{option} = {address!r}: that is no Ray dashboard ({error})") from None


def dashboard_url(address: str, option: str = "--address") -> str:
    """An address such as http://10.0.0.1:8265 or 10.0.0.1:8265, as a URL without a path.

    Raises:
        InputError: it is not of that form.
    """
    try:
        parts = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urllib.parse.urlsplit("")
    is_plain = not (parts.username or parts.query or parts.fragment or parts.path.strip("/"))
    if parts.scheme not in ("http", "https") or not host or not is_plain:
        raise InputError(
            f"{option} = {address!r}: must be that of a Ray cluster's dashboard, such as "
            f"http://10.0.0.1:{DEFAULT_PORT}"
        )
    port = port or (DEFAULT_PORT if parts.scheme == "http" else 443)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _source_of_token() -> str:
    return "$RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else f"file {str(token_file())!r}"


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _is_missing(status: int, text: str) -> bool:
    """Ray answers with 500 where a log file is not there."""
    return status == 404 or (status == 500 and "file is not found" in text)


def _silence(url: str, error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(error, http.client.HTTPException):
        return f"what is at {url} does not speak HTTP"
    return f"nobody answers at {url} ({str(reason) or type(reason).__name__})"


def _job(values: Mapping[str, Any]) -> Job:
    def seconds(name: str) -> float | None:
        return values[name] / 1000 if values.get(name) else None

    return Job(
        id=values["submission_id"],
        status=values["status"],
        exit_code=values.get("driver_exit_code"),
        message=values.get("message") or "",
        metadata=values.get("metadata") or {},
        started=seconds("start_time") or 0.0,
        ended=seconds("end_time"),
    )
