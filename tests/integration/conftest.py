"""One Ray and one tiny model for the whole session: starting Ray costs more than any test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def _end_ray() -> Iterator[None]:
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def ray_cluster(_end_ray: None) -> None:
    """A cluster of this process, which `connect` finds and joins; started where no test left one.

    It starts in the checkout, wherever a test works, since workers import the tests' toys.
    """
    import ray

    if not ray.is_initialized():
        options = {"log_to_driver": False, "logging_level": "ERROR"}
        with contextlib.chdir(Path(__file__).parents[2]):
            ray.init(address="local", num_cpus=2, include_dashboard=False, **options)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained checkpoint of the project's own form, whose zero is a person standing."""
    import torch

    from rl_motion.config import ScheduleConfig
    from rl_motion.models.denoiser import MotionSpace
    from rl_motion.models.mdm import MDM, MDMConfig
    from rl_motion.models.text import TinyBertConfig, create_tiny_bert
    from rl_motion.models.zoo import CheckpointConfig, network_shape, save_checkpoint

    folder = tmp_path_factory.mktemp("model")
    create_tiny_bert(["a person does thing number 1 2 3"], folder / "text", TinyBertConfig(hidden=16, layers=1))
    torch.manual_seed(0)
    shape = MDMConfig(
        latent_dim=16, ff_size=32, num_layers=2, num_heads=2, text_dim=16, mask_frames=True, pos_embed_max_len=60
    )
    network = MDM(shape)
    config = CheckpointConfig(
        kind="mdm", network=network_shape(network), text_encoder="text", schedule=ScheduleConfig()
    )
    space = MotionSpace(torch.zeros(263), torch.ones(263))
    save_checkpoint(folder / "mdm", network, config, space)
    return folder / "mdm"
