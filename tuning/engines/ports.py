"""Ports of this machine that nobody listens on."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_ports(n: int) -> list[int]:
    """Ports that nobody listens on, nor will by chance.

    They lie between those that Ray gives to its workers and those that the system gives to
    connections, which begin at any time; and at random, as others may ask at the same moment.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 1_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == n:
            return found
    raise OSError(f"{n} ports of this machine are asked for, and only {len(found)} are free")
