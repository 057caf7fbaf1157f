"""Noise that belongs to a sample, not to whoever computes it.

Each array is keyed by (run seed, iteration, prompt id, sample, step) and covers the frames that are scored, the
valid ones or a model's fixed canvas: neither the worker nor the batch mates change a number. Step 0 is the initial
noise; step k + 1 belongs to transition k.

Philox (Salmon et al. 2011) takes the hash as a 128-bit key. torch's CPU generator would keep 32 bits of it,
so that unrelated samples would share their noise about once per 4e9 pairs, and its normals depend on the
CPU's vector width.

Legend: B rows, F frames of the canvas, D features.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from rl_motion.types import Unit


def unit_noise(unit: Unit, step: int, features: int, dtype: torch.dtype, *, canvas: int | None = None) -> Tensor:
    """Standard normal noise [B, F, D] on the CPU, zero beyond each row's length; F is the unit's longest row.

    Args:
        unit: whose rows are asked for.
        step: 0 for the initial noise, k + 1 for transition k.
        features: D.
        dtype: float32 or float64; the two are different streams.
        canvas: F, filled whatever the rows' lengths; None where padding is not seen.
    """
    prompts = unit.row_prompts
    lengths = [canvas or prompt.length for prompt in prompts]
    noise_BFD = torch.zeros(unit.batch, max(lengths), features, dtype=dtype)
    array_BFD = noise_BFD.numpy()  # the same memory
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        sample = row % unit.samples_per_prompt
        generator = _generator(f"{unit.seed}/{unit.iteration}/{prompt.id}/{sample}/{step}")
        generator.standard_normal(dtype=array_BFD.dtype, out=array_BFD[row, :length])
    return noise_BFD


def _generator(key: str) -> np.random.Generator:
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
