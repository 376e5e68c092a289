"""Ports of the loopback interface that nobody listens on."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

# All by which a head of Ray is reached: the rest of them would be drawn by itself.
RAY_PORT_OPTIONS = (
    "--port", "--dashboard-port", "--dashboard-agent-listen-port", "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port", "--metrics-export-port", "--node-manager-port",
    "--object-manager-port", "--ray-client-server-port",
)  # fmt: skip


def free_ports(n: int) -> list[int]:
    """Ports below those that the system gives to connections, which begin at any time.

    At random, because tests run in several processes at once.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 1_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == n:
            return found
    raise AssertionError("no free ports")
