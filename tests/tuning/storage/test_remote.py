"""Folders behind URIs: on a disk and in an S3, whole or not at all, and what is said when not."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.errors import InputError
from tuning.record.uris import check_uri, is_uri, join_uri, split_uri
from tuning.storage import remote
from tuning.storage.remote import RemoteError, RemoteFolder, check_writable_uri, within_seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a", True),
        ("gs://b", True),
        ("file:///tmp", True),
        ("sweeps", False),
        ("/a/b", False),
        (Path("s3:/a"), False),
        ("C:/a", False),
    ],
)
def test_what_is_a_uri(text, expected):
    assert is_uri(text) is expected


NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=5)


@given(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["", "?scheme=http&a=b"]))
def test_joining_and_splitting_are_inverse_and_keep_the_query(names, query):
    uri = join_uri(f"s3://bucket{query}", *names)
    assert uri == f"s3://bucket/{'/'.join(names)}{query}"
    assert split_uri(uri)[1] == names[-1]
    assert join_uri(split_uri(uri)[0], names[-1]) == uri


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://host/a", "must be a path, or begin with one of s3://, gs://"),
        ("s3:///a", "names no bucket"),
        ("s3://key:secret@bucket/a", "holds a key"),
        ("s3://bucket/a?access_key=k&secret_key=hush", "holds a key"),
    ],
)
def test_a_uri_that_is_wrong_is_refused_without_a_look_and_no_key_is_repeated(uri, message):
    with pytest.raises(InputError) as caught:
        check_uri(uri, "--sweeps-folder")
    assert message in str(caught.value)
    assert "--sweeps-folder" in str(caught.value)
    assert "secret@" not in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.long)])
def folder(request, tmp_path) -> RemoteFolder:
    if request.param == "file":
        return RemoteFolder(f"file://{tmp_path}/place")
    return RemoteFolder(request.getfixturevalue("bucket"))


def test_files_are_what_was_written(folder, tmp_path):
    assert folder.files() == {}
    assert folder.read("a/b") is None
    folder.write("a/b", b"one")
    folder.write("a/b", b"other")
    folder.write("c", b"")
    (tmp_path / "large").write_bytes(os.urandom(20_000_000))
    folder.upload(tmp_path / "large", "a/large")
    assert {name: file.size for name, file in folder.files().items()} == {
        "a/b": 5,
        "c": 0,
        "a/large": 20_000_000,
    }
    assert list(folder.files(recursive=False)) == ["c"]
    assert set(folder.files("a")) == {"a/b", "a/large"}
    assert folder.folders() == ["a"]
    folder.download("a/large", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == (tmp_path / "large").read_bytes()
    folder.delete("c")
    folder.delete("c")
    folder.delete_folder("a")
    folder.delete_folder("a")
    assert folder.files() == {}
    folder.probe()
    assert folder.files() == {}


def test_a_file_on_a_disk_appears_whole(tmp_path):
    place = RemoteFolder(f"file://{tmp_path}/place")
    place.write("a", b"old")
    with pytest.raises(RemoteError):
        place.write("a", "no bytes")  # type: ignore[arg-type]
    assert place.read("a") == b"old"
    assert os.listdir(tmp_path / "place") == ["a"]


def test_a_bucket_that_is_not_there(s3):
    uri = s3.uri("no-such-bucket")
    with pytest.raises(InputError) as caught:
        check_writable_uri(uri, "--sweeps-folder")
    for part in ("--sweeps-folder", uri, "NO_SUCH_BUCKET", "make the bucket"):
        assert part in str(caught.value)


def test_keys_that_are_not_known(s3, bucket):
    with s3.keys_are_checked(), pytest.raises(InputError) as caught:
        check_writable_uri(bucket, "--sweeps-folder")
    for part in (bucket, "AWS_ACCESS_KEY_ID", "instance profile"):
        assert part in str(caught.value)


def test_keys_that_may_only_read(s3, bucket, monkeypatch):
    key, secret = s3.make_user("s3:Get*", "s3:List*")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with s3.keys_are_checked():
        assert RemoteFolder(bucket).files() == {}
        with pytest.raises(InputError) as caught:
            check_writable_uri(bucket, "--sweeps-folder")
    for part in (bucket, "ACCESS_DENIED", "write"):
        assert part in str(caught.value)


class Refusing(BaseHTTPRequestHandler):
    """What a cloud says to whom it does not know; moto has no answer for requests without keys."""

    asked: ClassVar[list[str | None]] = []

    def refuse(self) -> None:
        self.asked.append(self.headers["Authorization"])
        content = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST = do_GET = refuse

    def log_message(self, *arguments) -> None:
        pass


def test_no_keys_at_all(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # with no ~/.aws
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"s3://bucket/a?endpoint_override=127.0.0.1:{server.server_port}&scheme=http"
    try:
        with pytest.raises(InputError) as caught:
            check_writable_uri(uri, "--sweeps-folder")
    finally:
        server.shutdown()
        server.server_close()
    assert set(Refusing.asked) == {None}
    for part in (uri, "ACCESS_DENIED", "AWS_ACCESS_KEY_ID", "instance profile"):
        assert part in str(caught.value)


def test_a_place_where_nobody_answers(free_port, s3):
    uri = f"s3://bucket/a?endpoint_override=127.0.0.1:{free_port}&scheme=http"
    with pytest.raises(InputError) as caught:
        check_writable_uri(uri, "--sweeps-folder")
    assert uri in str(caught.value)
    assert "endpoint_override" in str(caught.value)
    assert "this machine reaches it" in str(caught.value)


def test_a_folder_that_can_not_be_written(tmp_path):
    (tmp_path / "file").touch()
    uri = f"file://{tmp_path}/file/below"
    with pytest.raises(InputError) as caught:
        check_writable_uri(uri, "--sweeps-folder")
    assert uri in str(caught.value)


def test_nobody_is_waited_for_without_end():
    with pytest.raises(RemoteError, match=r"s3://b: it did not answer within 0\.1 s"):
        within_seconds(0.1, "s3://b", lambda: threading.Event().wait(20))


def test_gs_is_not_tried_for_a_quarter_hour():
    assert remote._with_patience("gs://b/a") == "gs://b/a?retry_limit_seconds=30"
    assert remote._with_patience("gs://b?scheme=http").endswith("&retry_limit_seconds=30")
    own = "gs://b?retry_limit_seconds=5"
    assert remote._with_patience(own) == own
