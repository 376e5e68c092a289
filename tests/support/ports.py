"""Ports of the loopback interface that nobody listens on."""

from __future__ import annotations

from tuning.engines.ports import free_ports  # noqa: F401  for tests, beside what they give it for

# All by which a head of Ray is reached: the rest of them would be drawn by itself.
RAY_PORT_OPTIONS = (
    "--port", "--dashboard-port", "--dashboard-agent-listen-port", "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port", "--metrics-export-port", "--node-manager-port",
    "--object-manager-port", "--ray-client-server-port",
)  # fmt: skip
