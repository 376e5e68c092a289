"""How many trials share a GPU, decided by the memory that the trials so far have needed."""

from __future__ import annotations

from collections.abc import Mapping

# Bytes that torch's allocator holds for each byte allocated at the peak. Assumed: its blocks are
# rounded up, and freed ones do not always fit what is asked for next.
FRAGMENTATION = 1.25
# Of each process, besides tensors: CUDA context, kernels, workspaces of cuBLAS and cuDNN. Assumed;
# torch does not count them.
CONTEXT_BYTES = 768 * 2**20


class Packing:
    """One trial per GPU until memory is measured, then as many as fit.

    Trials need different amounts, for their batch sizes and for what they train; the neediest one
    seen so far decides, for any of them may be followed by its like. So once there is a measurement
    the packing is only ever lowered.
    """

    def __init__(self, most: int) -> None:
        """Begin without a measurement.

        Args:
            most: trials that may share a GPU whatever the memory.
        """
        self._most = most
        self._neediest: float | None = None  # share of a GPU

    @property
    def trials_per_gpu(self) -> int:
        """How many trials should share a GPU from now on."""
        if self._neediest is None:
            return 1
        return max(1, min(self._most, int(1 / self._neediest)))

    def learn(self, metrics: Mapping[str, float], ran_out_with: int | None) -> str | None:
        """Hear what a trial needed; the reason, if another number shares a GPU from now on.

        All that run where one runs out of memory may say so, and the packing is lowered by one: one
        was too many. A trial that was alone says nothing of others.

        Args:
            metrics: of its epoch.
            ran_out_with: so many trials shared its GPU when it ran out of memory; None: it did not.
        """
        before = self.trials_per_gpu
        reason = "it ran out of memory"
        if {"peak_memory_bytes", "gpu_memory_bytes"} <= set(metrics):
            peak, gpu = metrics["peak_memory_bytes"], metrics["gpu_memory_bytes"]
            share = (FRAGMENTATION * peak + CONTEXT_BYTES) / gpu
            self._neediest = max(share, self._neediest or 0.0)
            if ran_out_with is None:
                reason = f"its tensors took {peak / 2**30:.1f} of {gpu / 2**30:.1f} GiB"
        if ran_out_with is not None and ran_out_with > 1:
            self._most = min(self._most, ran_out_with - 1)
        return None if self.trials_per_gpu == before else reason
