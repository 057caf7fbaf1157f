"""The limit: how fast this machine multiplies matrices and reads memory, and what a network's call needs of it.

    python jobs/bench/limits.py --out bench            # a minute; bench.py calls it

The floor of a stage is its operations over the best rate that a matrix multiplication of the networks' sizes reached,
in the same precision and with as many threads: no loop over that network can be faster, as long as it does all its
operations. Operations are counted by torch (`FlopCounterMode`: matrix products and convolutions, a multiplication and
an addition each); norms, activations and softmax are not in them, though they take time, so a floor is never reached.

A learner needs the forward, and of the backward what LoRA needs: through every frozen layer the gradient of its input,
not of its weights (half of a whole backward), and the small matrices A and B. It is counted on what autograd does for
the adapter's gradient.

Legend: B rows, F frames, D features.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from ray_part import Measured, Say, run_part
from timing import spread
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rl_motion.models.product import product

SHAPES = (
    (1576, 512, 1536),
    (1576, 512, 1024),
    (1576, 1024, 512),
    (3152, 512, 512),
    (1280, 96, 256),
    (2048, 2048, 2048),
)
"""Rows, channels in, channels out: MDM's layers over 8 motions of 197 tokens and twice as many, the embedded model's,
and one so large that it hides every call's cost."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_COPY_BYTES = 256 * 2**20


def matmul_rate(shape: tuple[int, int, int], dtype: torch.dtype, seconds: float = 0.3) -> float:
    """The best rate of a linear layer of this shape, in operations a second, of torch's way and of ours."""
    rows, width, out = shape
    x, weight = torch.randn(rows, width).to(dtype), torch.randn(out, width).to(dtype)
    best, until = 0.0, time.perf_counter() + seconds
    with torch.no_grad():
        while best == 0.0 or time.perf_counter() < until:
            for multiply in (nn.functional.linear, product):
                started = time.perf_counter()
                multiply(x, weight)
                best = max(best, 2.0 * rows * width * out / (time.perf_counter() - started))
    return best


def best_rate(precision: str, seconds: float = 0.2) -> float:
    """The best rate over all shapes, in operations a second, with the threads that torch has now."""
    return max(matmul_rate(shape, DTYPES[precision], seconds) for shape in SHAPES)


def copy_rate(seconds: float = 1.0) -> float:
    """Bytes a second that a copy reads and writes, the best, far beyond what caches hold."""
    source, target = (torch.ones(_COPY_BYTES // 4) for _ in range(2))
    best, until = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < until:
        started = time.perf_counter()
        target.copy_(source)
        best = max(best, 2.0 * _COPY_BYTES / (time.perf_counter() - started))
    return best


def operations(call: Callable[[], object]) -> int:
    """Operations of matrix products and convolutions within a call, attention's one kernel on CPUs included."""
    aten: Any = torch.ops.aten
    fused = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }  # which torch's own counter does not know
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        call()
    return counter.get_total_flops()


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Of the shapes [B, H, L, E], [B, H, M, E] and the value's: scores, and what is mixed by them."""
    rows, heads, queries, width = query
    return 2 * rows * heads * queries * key[2] * (width + value[3])


def _attention_backward(_: Sequence[int], *shapes: Any, **__: Any) -> int:
    """Two products for each of the forward; the scores that the kernel computes again are its own affair."""
    return 2 * _attention(*shapes[:3])


def forward_operations(predict: Callable[[], Tensor]) -> int:
    """Of a network's call without gradient."""
    with torch.no_grad():
        return operations(predict)


def learning_operations(predict: Callable[[], Tensor], parameters: list[nn.Parameter]) -> int:
    """Of a network's call and of the gradient of these parameters, and nothing else."""

    def both() -> None:
        output = predict()
        torch.autograd.grad(output.sum(), parameters, allow_unused=True)

    return operations(both)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Within the context torch has so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def measure(quick: bool, say: Say) -> Measured:
    """Rates in GFLOP/s by threads, precision and shape, and memory's in GB/s by threads."""
    seconds = 0.01 if quick else 0.4
    gflops: dict[str, dict[str, dict[str, float]]] = {}
    memory: dict[str, float] = {}
    numbers = sorted({1, os.cpu_count() or 1})
    for number in numbers:
        say(f"{number} threads")
        with threads(number):
            memory[str(number)] = round(copy_rate(0.05 if quick else 1.5) / 1e9, 2)
            gflops[str(number)] = {
                name: {
                    "x".join(map(str, shape)): round(matmul_rate(shape, dtype, seconds) / 1e9, 1) for shape in SHAPES
                }
                for name, dtype in DTYPES.items()
            }
    rates = gflops[str(numbers[-1])]
    gains = [rates["bfloat16"][shape] / rates["float32"][shape] for shape in rates["float32"]]
    return (), {"matmul_gflops": gflops, "memory_gbs": memory, "bfloat16_over_float32": spread(gains).json}


def main(
    out: Annotated[Path, typer.Option(help="The benchmark's folder: OUT/parts/limits.json.")] = Path("bench"),
    quick: Annotated[bool, typer.Option("--quick", help="A few milliseconds each, for tests.")] = False,
) -> None:
    """Measure this machine's limits: matrix multiplication in float32 and bfloat16, and memory bandwidth."""
    run_part("limits", out, quick, measure)


if __name__ == "__main__":
    typer.run(main)
