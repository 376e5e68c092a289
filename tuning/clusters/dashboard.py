"""A Ray cluster's dashboard: its jobs, through Ray's own client, and the files its head shows."""

from __future__ import annotations

import http.client
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import InputError, RunFailed
from tuning.clusters.dashboard_http import (
    ANSWER_SECONDS,
    DEFAULT_PORT,
    DashboardHttp,
    Missing,
    Unreachable,
    dashboard_url,
)
from tuning.doctor.auth_token import read_token

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_FIRST_ANSWER_SECONDS = 5.0
_FOLLOW_SECONDS = 300.0  # that a file may stay as it is before we ask anew
_READ_SECONDS = 86_400  # that the cluster may take to send a whole file
# How long Ray's client waits. All of an upload must be sent within its time.
_JOB_SECONDS = {"GET": 20.0, "DELETE": 20.0, "POST": 60.0, "PUT": 600.0}


class Dashboard(DashboardHttp):
    """The dashboard at one address. Use ``connect`` to get one that is known to answer.

    Every method may raise Unreachable, or RunFailed where the answer is an error.
    """

    def ray_version(self) -> str:
        """Ray's version on the cluster, within 5 seconds."""
        answer = self.json("/api/version", seconds=_FIRST_ANSWER_SECONDS)
        return str(answer["ray_version"])

    def jobs(self) -> list[JobDetails]:
        """All jobs that were submitted, oldest first."""
        with self._asking_ray():
            found = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: job.start_time or 0)

    def job(self, job_id: str) -> JobDetails | None:
        """The job of that id; None if the cluster knows none."""
        return next((job for job in self.jobs() if job.submission_id == job_id), None)

    def submit(
        self,
        job_id: str,
        entrypoint: str,
        *,
        metadata: Mapping[str, str] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        """Start a job on the head; a ``working_dir`` of this machine is uploaded.

        Raises:
            RunFailed: the cluster does not take it, for example because the id is in use.
        """
        with self._asking_ray():
            self._client.submit_job(
                submission_id=job_id,
                entrypoint=entrypoint,
                metadata=dict(metadata or {}),
                runtime_env=dict(runtime_env or {}),
            )

    def stop(self, job_id: str) -> None:
        """Ask a job to end, by SIGTERM."""
        with self._asking_ray():
            self._client.stop_job(job_id)

    def delete(self, job_id: str) -> None:
        """Have the cluster forget a job that has ended."""
        with self._asking_ray():
            self._client.delete_job(job_id)

    def log(self, job_id: str) -> list[str]:
        """The lines that a job has printed so far."""
        with self._asking_ray():
            return str(self._client.get_job_logs(job_id)).splitlines()

    @cached_property
    def _client(self) -> JobSubmissionClient:
        """Ray's client of jobs, which asks at ``url`` alone and does not wait for ever."""
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)

        class Client(JobSubmissionClient):  # type: ignore[misc]
            # A private name, for want of another: each request of Ray 2.60's client goes through it
            # and may take what `requests` takes. test_dashboard.py says what breaks without.
            def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
                more |= {"timeout": _JOB_SECONDS[method], "allow_redirects": False}
                return super()._do_request(method, endpoint, proxies={"no_proxy": "*"}, **more)

        # A header of None is not sent, and keeps Ray from adding a token that nobody asked for.
        headers = {"Authorization": None if self.token is None else f"Bearer {self.token}"}
        # Ray would go to $RAY_ADDRESS whatever address it is given, but for this one before it.
        before = os.environ.get("RAY_API_SERVER_ADDRESS")
        os.environ["RAY_API_SERVER_ADDRESS"] = self.url
        try:
            return Client(headers=headers)
        finally:
            del os.environ["RAY_API_SERVER_ADDRESS"]
            if before is not None:
                os.environ["RAY_API_SERVER_ADDRESS"] = before

    @contextmanager
    def _asking_ray(self) -> Iterator[None]:
        """Raise our own errors in place of those of Ray's client."""
        from ray.exceptions import AuthenticationError

        try:
            with self.answering():
                yield
        except RunFailed:
            raise
        except AuthenticationError:
            raise RunFailed(f"the cluster at {self.url} refuses this machine's token") from None
        except RuntimeError as error:
            last_line = str(error).strip().splitlines()[-1]
            raise RunFailed(f"the cluster at {self.url} refuses: {last_line}") from None
        except (ValueError, TypeError) as error:  # of an older or newer Ray there
            reason = str(error).strip().splitlines()[0]
            raise RunFailed(f"the answer of {self.url} is not understood: {reason}") from None

    # Files. Ray's client has nothing for them.

    def files(self, pattern: str) -> list[str]:
        """Names of files in the head's folder of logs that match a glob pattern."""
        answer = self.json("/api/v0/logs", {"glob": pattern, "node_id": self._head})
        found = answer["data"]["result"]
        return sorted(name for names in found.values() for name in names if name[-1:] != "/")

    def open_file(self, name: str, *, follow: bool = False) -> http.client.HTTPResponse:
        """A file of the head's folder of logs, as a stream to be closed.

        Args:
            name: below that folder; links out of it are followed.
            follow: the stream goes on as the file grows, as ``tail -f`` does.

        Raises:
            Missing: there is none.
        """
        return self.open(
            f"/api/v0/logs/{'stream' if follow else 'file'}",
            {"filename": name, "lines": "-1", "timeout": f"{_READ_SECONDS}", "node_id": self._head},
            _FOLLOW_SECONDS if follow else ANSWER_SECONDS,
        )

    def read_some(self, stream: http.client.HTTPResponse) -> bytes:
        """What has come of a stream, once something has; nothing at its end.

        Raises:
            Unreachable: the connection is lost, or has been silent for too long.
        """
        with self.answering():
            return stream.read1(1 << 20)

    def read(self, name: str) -> bytes | None:
        """All of a file of the head's folder of logs; None if there is none, or nothing in it.

        The two can not be told apart: Ray's answer to a missing file is an error or an empty one.
        """
        with suppress(Missing), self.open_file(name) as stream, self.answering():
            return stream.read() or None
        return None

    def download(self, name: str, path: Path) -> None:
        """Write a file of the head's folder of logs, which ``files`` has named, to ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.open_file(name) as stream, path.open("wb") as file:
            while some := self.read_some(stream):
                file.write(some)

    @cached_property
    def _head(self) -> str:
        """The head's id, which requests for files must name."""
        answer = self.json("/api/v0/nodes", {"limit": "10000"})
        nodes = answer["data"]["result"]["result"]
        heads = [n for n in nodes if n["is_head_node"] and n["state"] == "ALIVE"]
        if not heads:
            raise RunFailed(f"the cluster at {self.url} has no living head node")
        return str(heads[0]["node_id"])


def connect(address: str, option: str = "--address") -> Dashboard:
    """The dashboard at an address, once it has answered. It gets the token only if it asks.

    Raises:
        InputError: that is no address, nobody answers there, or the token is missing or wrong.
    """
    url = dashboard_url(address, option)
    try:
        dashboard = Dashboard(url, None)
        try:
            dashboard.ray_version()
        except InputError:
            if (token := read_token()) is None:
                raise
            dashboard = Dashboard(url, token)
            dashboard.ray_version()
        return dashboard
    except InputError:
        raise
    except Unreachable as error:
        raise InputError(
            f"{option} = {address!r}: {error}; is the cluster up? The address must be its "
            f"dashboard's, whose port is {DEFAULT_PORT} unless it was started otherwise. From "
            "outside of its network, --cluster FILE reaches it through SSH"
        ) from None
    except (ValueError, KeyError, TypeError, RunFailed) as error:
        raise InputError(f"{option} = {address!r}: that is no Ray dashboard ({error})") from None
