"""One Ray for the whole session: starting it costs more than any test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def _end_ray() -> Iterator[None]:
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def ray_cluster(_end_ray: None) -> None:
    """A cluster of this process, which `connect` finds and joins; started where no test left one."""
    import ray

    if not ray.is_initialized():
        options = {"log_to_driver": False, "logging_level": "ERROR"}
        ray.init(address="local", num_cpus=2, include_dashboard=False, **options)
