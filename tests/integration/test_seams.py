"""Latents and tokens on Ray: its workers give what one process gives, as they do for motion."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from rl_motion.config import Job
from rl_motion.runtime import frontend
from rl_motion.runtime.frontend import Means
from tests import latent_toy, token_toy
from tests.fakes import result
from tests.latent_toy import latent_job
from tests.token_toy import token_job


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("means", "make"), [(latent_toy.MEANS, latent_job), (token_toy.MEANS, token_job)], ids=["latent", "token"]
)
def test_ray_gives_the_bits_of_local(
    means: Means, make: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "MEANS", means)
    jobs = make(), make(backend="ray", rollout_workers=2)
    local, remote = (result(frontend.start(job, tmp_path, Console(file=io.StringIO())).folder) for job in jobs)
    assert remote == local
    other = make(iterations=2)
    assert result(frontend.start(other, tmp_path, Console(file=io.StringIO())).folder)[0] != local[0]
