"""Where networks compute: on the GPU that torch sees, else on the CPU. Every choice of it is made here.

Whoever loads a network for use puts it on `device()`. What a network is given follows it there, and what leaves a
worker is on the CPU: trajectories, rewards, gradients, adapters. Noise is drawn and texts are encoded on the CPU, so
they have the same bits wherever the network is (docs/adr/0010-devices.md).
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import nn

from rl_motion.config import UserError

VARIABLE = "RL_MOTION_DEVICE"
"""Environment variable: `cpu` leaves a GPU alone. No setting of a job, which is the same on every machine."""
CPU = "cpu"
_GPU = torch.device("cuda")


def device() -> torch.device:
    """Where this process puts networks; on a GPU, sees to it first that the same input gives the same bits there.

    Raises:
        UserError: `RL_MOTION_DEVICE` is something else than `cpu`.
    """
    if stays_on_cpu() or not torch.cuda.is_available():
        return torch.device(CPU)
    _make_exact()
    return _GPU


def device_name() -> str:
    """What rounds the networks' numbers: `cpu`, or the GPU by its maker's name; raises as `device`."""
    return CPU if device().type == CPU else torch.cuda.get_device_name()


def device_of(network: nn.Module) -> torch.device:
    """Where a network is."""
    return next(network.parameters()).device


def stays_on_cpu() -> bool:
    """Whether a GPU is to be left alone.

    Raises:
        UserError: `RL_MOTION_DEVICE` is something else than `cpu`.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", CPU):
        raise UserError(
            f"got {VARIABLE}={wanted[:60]!r}; want {CPU!r}, or nothing, which takes a GPU where there is one; correct "
            "it, and choose between GPUs with CUDA_VISIBLE_DEVICES"
        )
    return wanted == CPU


def keep_to_cpu() -> None:
    """From now on this process leaves GPUs alone: Ray shows every GPU of a node to workers that claimed none."""
    os.environ[VARIABLE] = CPU


def _make_exact() -> None:
    """No TF32, whose products have ten bits of mantissa; of several algorithms the one that repeats itself.

    cuBLAS reads the variable when it is used first.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    backends: Any = torch.backends  # whose types lack some of these
    for part in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        part.fp32_precision = "ieee"
    # Not refused but warned of: running sums and medians, which joints and sentinels are made of, have no other.
    torch.use_deterministic_algorithms(True, warn_only=True)
    for name in ("cumsum_cuda_kernel", "median CUDA with indices output"):
        warnings.filterwarnings("ignore", message=f"{name} does not have a deterministic implementation")
