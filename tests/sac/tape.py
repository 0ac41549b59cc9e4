"""CUDA-graph semantics on a CPU: temporaries hold nothing between two replays, and no version counter moves."""

from __future__ import annotations

import torch

from rllib_nbsp.sac.tape import CPURecording

POISON = {torch.float32: float("nan"), torch.bfloat16: float("nan"), torch.float64: float("nan"), torch.int64: 1 << 40}
"""What temporaries hold between two replays, so that whoever reads them without their having been made is found out."""


class Tape(CPURecording):
    """A recording that forgets, as a CUDA graph's pool may, what a replay left."""

    def replay(self) -> None:
        """Make the calls again; as on a device, nobody's version counter moves."""
        written = [tensor for tensor, _ in self._before.values()]
        with torch.autograd._unsafe_preserve_version_counter(tuple(written)):
            for tensor in self._fresh.values():
                if tensor.dtype in POISON:
                    tensor.fill_(POISON[tensor.dtype])
            super().replay()
