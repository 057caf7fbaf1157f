"""What every test shares: a quiet, offline environment, the optional folder beside the checkout, threads."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# Before anything imports torch, ray or transformers: they read these once.
os.environ.update(
    RAY_AUTH_MODE="disabled",
    MLFLOW_DISABLE_TELEMETRY="true",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_WAIT_POLICY="PASSIVE",
)

import pytest
from hypothesis import settings

# A shell's background jobs ignore Ctrl-C, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time: a red test stays red until it is mended. No deadline: machines are shared.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference material beside the checkout; most machines lack it, and the suite passes without."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder `shared` beside the checkout")
    return folder


@pytest.fixture(autouse=True)
def _restore_torch_threads() -> Iterator[None]:
    """A test that sets the number of threads changes it for itself only."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if torch and before:
        torch.set_num_threads(before)


@pytest.fixture
def torchs_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapted layers multiply as `nn.Linear` does: to the bit what the network without adapter computes."""
    monkeypatch.setattr("rl_motion.models.product._ONEDNN", None)


@pytest.fixture
def one_thread() -> None:
    """Compute on one thread: what is compared bit for bit must not depend on the machine's cores."""
    import torch

    torch.set_num_threads(1)
