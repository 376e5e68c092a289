"""HTTP to a cluster's dashboard: who answers there, with what token, and what errors mean.

It stands beside Ray's own client of jobs for two reasons. Ray's takes two seconds to import, which
is too much for saying that nobody answers; and Ray has no public client for the files that the head
shows among its logs.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trainables.errors import InputError, RunFailed
from tuning.doctor.auth_token import token_file

DEFAULT_PORT = 8265  # of Ray's dashboard
REFUSED = (401, 403)  # status of an answer to a request without the right token
ANSWER_SECONDS = 20.0


class Unreachable(RunFailed):
    """The dashboard does not answer, or not any more."""


class Missing(RunFailed):
    """What is asked for is not there."""


class DashboardHttp:
    """Requests to the dashboard at one address."""

    def __init__(self, url: str, token: str | None) -> None:
        """Ask at ``url``; the token goes into the header of requests, and nowhere else."""
        self.url = url
        self.token = token
        # No proxy and no redirects: the token is for this address alone.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())

    def json(
        self, path: str, query: Mapping[str, str] | None = None, seconds: float = ANSWER_SECONDS
    ) -> Any:
        """The document that a GET is answered with."""
        with self.open(path, query, seconds) as answer, self.answering():
            return json.load(answer)

    def open(
        self, path: str, query: Mapping[str, str] | None = None, seconds: float = ANSWER_SECONDS
    ) -> http.client.HTTPResponse:
        """The answer to a GET, to be closed.

        Args:
            path: on the dashboard.
            query: of the URL.
            seconds: that may pass until the first byte comes, and between any two.

        Raises:
            Unreachable: nobody answers.
            InputError: the token is missing or wrong.
            Missing: there is no such file.
            RunFailed: the answer is another error.
        """
        url = self.url + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(url, headers=headers)
        with self.answering():
            try:
                answer: http.client.HTTPResponse = self._opener.open(request, timeout=seconds)
                return answer
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read(100_000).decode(errors="replace").strip()
                raise self._explained(error.code, text) from error

    def status_of(self, path: str) -> int:
        """The status that a GET is answered with, whether it is an error or not."""
        try:
            with self.open(path) as answer:
                return answer.status
        except (InputError, RunFailed) as error:
            if isinstance(error.__cause__, urllib.error.HTTPError):
                return error.__cause__.code
            raise

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Have a connection that fails within the block raise ``Unreachable``."""
        try:
            yield
        except http.client.HTTPException:
            raise Unreachable(f"what is at {self.url} does not speak HTTP") from None
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            shown = str(reason) or type(reason).__name__
            raise Unreachable(f"nobody answers at {self.url} ({shown})") from None

    def _explained(self, status: int, text: str) -> Exception:
        """What an answer that is an error means to a person."""
        file = f"file {str(token_file())!r}"
        if status == 401:
            return InputError(
                f"the cluster at {self.url} wants its token, and this machine has none: neither "
                f"in $RAY_AUTH_TOKEN nor in {file}. Copy ~/.ray/auth_token "
                "from the cluster's head to that file, mode 600"
            )
        if status == 403 and self.token is not None:
            source = "$RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else file
            return InputError(
                f"the cluster at {self.url} refuses the token in {source}, which "
                "belongs to another cluster. The right one is ~/.ray/auth_token on the cluster's "
                "head"
            )
        last_line = text.splitlines()[-1] if text else "no reason is given"
        is_missing = status == 404 or (status == 500 and "file is not found" in text)  # a log file
        kind = Missing if is_missing else RunFailed
        return kind(f"the cluster at {self.url} answers with error {status}: {last_line}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


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
            f"{option} = {address!r}: must be the address of a Ray cluster's dashboard, such as "
            f"http://10.0.0.1:{DEFAULT_PORT}"
        )
    port = port or (DEFAULT_PORT if parts.scheme == "http" else 443)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
