"""The files of the prefix cache: made once, whole or not at all, within a budget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainables.adapting.prefix_cache import NotCached, PrefixCache

ROW = 40  # bytes of ten floats
BUDGET = 100 * ROW


def rows(n: int, start: float = 0.0) -> Tensor:
    return torch.arange(n * 10, dtype=torch.float32).view(n, 10) + start


def make(cache: PrefixCache, key: str, n: int = 8, start: float = 0.0) -> Tensor:
    return cache.make(key, {0: n}, n * ROW, iter([(0, rows(n, start))])).groups[0]


@pytest.fixture
def cache(tmp_path: Path) -> PrefixCache:
    return PrefixCache(tmp_path / "activations", BUDGET)


def files_of(cache: PrefixCache) -> set[str]:
    return {path.name for path in cache._folder.glob("*") if path.is_dir()}


def test_an_entry_is_read_as_it_was_made(cache):
    assert cache.read("a") is None
    made = make(cache, "a")
    found = cache.read("a")
    assert found is not None
    assert found.groups[0].equal(made)
    assert made.equal(rows(8))


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.dictionaries(st.integers(1, 9), st.integers(1, 5), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    chunk=st.integers(1, 3),
)
def test_groups_of_any_shape_and_type_come_back(tmp_path_factory, sizes, dtype, chunk):
    cache = PrefixCache(tmp_path_factory.mktemp("cache"), 1 << 20)
    whole = {group: torch.randn(n, 4 * group, 3).to(dtype) for group, n in sizes.items()}

    def chunks() -> Iterator[tuple[int, Tensor]]:
        for group, tensor in whole.items():
            for piece in tensor.split(chunk):
                yield group, piece

    cache.make("key", sizes, 1000, chunks())
    entry = cache.read("key")
    assert entry is not None
    assert set(entry.groups) == set(whole)
    assert all(entry.groups[group].equal(tensor) for group, tensor in whole.items())


def test_two_that_want_the_same_entry_compute_it_once(cache):
    computed = []

    def slowly() -> Iterator[tuple[int, Tensor]]:
        computed.append(threading.get_ident())
        time.sleep(0.3)
        yield 0, rows(8)

    results: list[Tensor] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(cache.make("a", {0: 8}, 320, slowly()).groups[0])
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(computed) == 1
    assert len(results) == 4
    assert all(result.equal(rows(8)) for result in results)


WRITER = """
import sys, time, torch
from pathlib import Path
from trainables.adapting.prefix_cache import PrefixCache
def chunks():
    yield 0, torch.zeros(4, 10)
    print("half", flush=True)
    time.sleep(60)
PrefixCache(Path(sys.argv[1]), 4000).make("a", {0: 8}, 320, chunks())
"""


def test_a_killed_writer_leaves_nothing_in_the_way(cache):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(cache._folder)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    assert cache.read("a") is None  # half an entry is none
    writer.send_signal(signal.SIGKILL)
    writer.wait(30)
    assert files_of(cache) == {".a"}
    make(cache, "b")  # whoever needs room next removes it
    assert files_of(cache) == {"b"}
    assert make(cache, "a").equal(rows(8))


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from trainables.adapting.prefix_cache import NotCached, PrefixCache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
cache = PrefixCache(Path(sys.argv[1]), 1 << 30)
try:
    cache.make("a", {0: 1000}, int(sys.argv[2]), iter([(0, torch.ones(1000, 10))]))
except NotCached as reason:
    print(reason)
"""


@pytest.mark.parametrize("expected_bytes", [40_000, 10])
def test_a_disk_that_refuses_is_a_reason_and_leaves_nothing(cache, expected_bytes):
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(cache._folder), str(expected_bytes)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "can not be written: File too large" in result.stdout, result.stderr
    assert files_of(cache) == set()


def test_a_folder_that_can_not_be_written_is_a_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotCached, match="can not be written"):
        make(PrefixCache(tmp_path / "file", BUDGET), "a")


@pytest.mark.parametrize("damage", ["cut short", "altered", "no description", "nonsense"])
def test_a_damaged_entry_is_never_read(cache, damage):
    make(cache, "a")
    data, description = cache._folder / "a/activations.bin", cache._folder / "a/entry.json"
    if damage == "cut short":
        os.truncate(data, 100)
    elif damage == "altered":
        content = bytearray(data.read_bytes())
        content[17] ^= 1
        data.write_bytes(bytes(content))
    elif damage == "no description":
        description.unlink()
    else:
        description.write_text("{")
    assert cache.read("a") is None
    assert make(cache, "a", start=5.0).equal(rows(8, 5.0))


def test_the_least_recently_used_goes_first(cache):
    for age, key in enumerate(("a", "b", "c")):
        make(cache, key, n=30)
        os.utime(cache._folder / key / "entry.json", (age, age))
    assert cache.read("a") is not None  # used just now
    kept = cache.read("b")  # mapped, and evicted below
    os.utime(cache._folder / "b/entry.json", (1, 1))
    make(cache, "d", n=30)
    assert files_of(cache) == {"a", "c", "d"}
    assert kept is not None
    assert kept.groups[0].equal(rows(30))


def test_what_exceeds_the_budget_is_refused_before_anything_is_evicted(cache):
    make(cache, "a", n=60)
    with pytest.raises(NotCached, match=r"4,040 bytes are more than the budget of 4,000"):
        make(cache, "b", n=101)
    assert files_of(cache) == {"a"}


def test_the_default_budget_leaves_most_of_the_machine(tmp_path):
    budget = PrefixCache(tmp_path / "new" / "folder").budget_bytes
    assert 0 < budget < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
