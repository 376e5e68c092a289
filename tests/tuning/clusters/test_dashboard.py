"""Ray's own client of jobs behind ours: where it asks, what it sends, and how long it waits.

Most of this is what one private name of Ray's, ``_do_request``, is used for.
"""

from __future__ import annotations

import time

import pytest
from fake_dashboard import fake_dashboard

from trainables.errors import RunFailed
from tuning.clusters import dashboard as module
from tuning.clusters.dashboard import Dashboard, connect
from tuning.clusters.dashboard_http import Unreachable


@pytest.fixture
def server():
    with fake_dashboard() as server:
        yield server


def test_a_job_is_started_found_and_gone(server):
    dashboard = Dashboard(server.url, None)
    dashboard.submit("a~2", "echo hello", metadata={"thaw_sweep": "a"})
    (job,) = dashboard.jobs()
    assert (job.submission_id, job.entrypoint) == ("a~2", "echo hello")
    assert dashboard.job("a~2").metadata == {"thaw_sweep": "a"}
    assert dashboard.job("a") is None
    server.log = "hello\nagain\n"
    assert dashboard.log("a~2") == ["hello", "again"]
    with pytest.raises(RunFailed, match=r"the cluster at http://\S+ refuses: .*no such job"):
        dashboard.stop("another")


def test_an_answer_that_rays_client_does_not_understand_is_told(server):
    server.jobs = [{"submission_id": "of-another-ray"}]
    with pytest.raises(RunFailed, match=r"the answer of http://\S+ is not understood: "):
        Dashboard(server.url, None).jobs()


def test_the_address_that_is_given_is_the_one_that_is_asked(server, free_port, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")
    assert Dashboard(server.url, None).jobs() == []


def test_no_proxy_is_asked(server, free_port, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert connect(server.url).jobs() == []


def test_no_token_is_sent_where_none_is_asked_for(server, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-secret")
    assert connect(server.url).jobs() == []
    assert {token for _, _, token in server.requests} == {None}


def test_jobs_are_not_asked_for_elsewhere(server):
    with fake_dashboard(token="a-secret") as guarded:
        dashboard = Dashboard(guarded.url, "a-secret")
        dashboard.jobs()
        guarded.redirect_to = server.url
        with pytest.raises(RunFailed, match="refuses"):
            dashboard.jobs()
    assert server.requests == []


def test_a_server_that_falls_silent_is_given_up(server, monkeypatch):
    dashboard = Dashboard(server.url, None)
    dashboard.jobs()
    monkeypatch.setitem(module._JOB_SECONDS, "GET", 0.5)
    server.seconds_to_answer = 5.0
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"nobody answers at http://\S+ .*timed out"):
        dashboard.jobs()
    assert time.monotonic() - started < 3
