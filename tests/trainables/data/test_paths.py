"""What is not a regular file or a folder is no data."""

from __future__ import annotations

import os
import socket

import pytest
from labelled_texts import PLAIN, config, write

from trainables.data.paths import data_path
from trainables.data.splits import data_files
from trainables.data.tables import TABLES
from trainables.errors import InputError


def test_files_folders_and_links_to_them_are_data(tmp_path):
    file = write(tmp_path, "a.csv", PLAIN)
    (tmp_path / "link").symlink_to(file)
    for path in (tmp_path, file, tmp_path / "link"):
        assert data_path(str(path)) == path


def test_devices_pipes_sockets_and_streams_are_not(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to("/dev/zero")
    with listener, open(write(tmp_path, "a.csv", PLAIN)) as opened:
        cases = {
            "/dev/zero": "is a device",
            str(tmp_path / "link"): "is a device",
            str(tmp_path / "pipe.csv"): "is a pipe",
            str(tmp_path / "socket"): "is a socket",
            f"/dev/fd/{opened.fileno()}": "is a stream of one process",
            f"/proc/self/fd/{opened.fileno()}": "is a stream of one process",
            str(tmp_path / "nothing"): "no such file or folder",
            "a\0b": "no such file or folder",
        }
        for value, problem in cases.items():
            with pytest.raises(InputError, match=f"^data = .*: {problem}"):
                data_files(config("x").model_copy(update={"data": value}), TABLES)


def test_a_pipe_in_a_folder_is_no_split(tmp_path):
    os.mkfifo(tmp_path / "val.csv")
    (tmp_path / "test.csv").mkdir()
    train = write(tmp_path, "train.csv", PLAIN)
    assert data_files(config(tmp_path), TABLES) == {"train": train}
