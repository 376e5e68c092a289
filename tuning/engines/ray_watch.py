"""Notices that the Ray which a driver has started for itself has ended, and says so.

Ray tells its driver nothing. When its node manager is gone, trials wait for nodes for ever, and the
first use of its object store ends the process at once with status 1, without a word; when its
control store is gone, calls to it wait for a minute, and then end the process likewise.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from trainables.errors import RunFailed

_SECONDS_BETWEEN_LOOKS = 0.2
# For the driver to end in order. Ray's own calls may wait for what is gone.
_SECONDS_TO_END = 40.0
# Ray's names of what it can not do without. The first ends when one of its agents does.
_VITAL = {"raylet": "its node manager", "gcs_server": "its control store"}


class RayWatch:
    """Looks after the processes of this driver's own Ray, from its start to its end."""

    def __init__(self, node: Any, go_on: str) -> None:
        """Begin.

        Args:
            node: Ray's own account of the processes that it has started.
            go_on: the command that continues what the driver does.
        """
        self._node = node
        self._go_on = go_on
        self._cause: str | None = None
        self._is_expected = False  # that Ray ends
        self._is_over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def check(self) -> None:
        """Do nothing while Ray is well.

        Raises:
            RunFailed: it has ended.
        """
        if self._cause is not None:
            raise RunFailed(f"{self._cause}. Nothing was lost; continue with\n  {self._go_on}")

    def expect_end(self) -> None:
        """Hear that Ray is about to be shut down."""
        self._is_expected = True

    def close(self) -> None:
        """Hear that Ray has been shut down."""
        self._is_over.set()

    def _look(self) -> None:
        while self._cause is None:
            if self._is_over.wait(_SECONDS_BETWEEN_LOOKS):
                return
            self._cause = self._find_cause()
        # Now, as Ray may end this process at any moment.
        print(self._cause, file=sys.stderr, flush=True)
        if not self._is_over.wait(_SECONDS_TO_END):
            os._exit(1)

    def _find_cause(self) -> str | None:
        for kind, process in self._node.dead_processes():
            if kind in _VITAL and not self._is_expected:
                code = process.returncode
                how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
                logs = self._node.get_logs_dir_path()
                return f"Ray has ended: {_VITAL[kind]} ({kind}) {how}; its logs are in {logs}"
        return None
