"""Whether the processor or GPU of a Learner has the formats of numbers that its run asks for."""

from __future__ import annotations

import platform

import torch

from rllib_nbsp.settings import TrainingSettings


def check_formats(training: TrainingSettings, device: torch.device) -> None:
    """Nothing is emulated in silence, which is slower than float32 and would be found out after hours.

    Raises:
        ValueError: naming the key, the device and what to set instead.
    """
    if training.autocast == "bf16" and not has_bf16(device):
        raise ValueError(
            f"training.autocast is 'bf16'; {_name(device)} does not calculate in bfloat16 (a CPU needs avx512_bf16 or "
            "amx_bf16, an NVIDIA GPU compute capability 8.0): leave it out"
        )
    if training.tf32 and torch.cuda.get_device_capability(device) < (8, 0):
        raise ValueError(
            f"training.tf32 is true; {_name(device)} has no TF32, which needs compute capability 8.0: leave it out"
        )


def has_bf16(device: torch.device) -> bool:
    """Whether a processor or GPU calculates in bfloat16, and does not emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN says yes to AVX-512 alone, and then emulates.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
