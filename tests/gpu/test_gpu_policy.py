"""On a CUDA device a rollout is replayed exactly, and comes close to what the CPU samples from the same noise."""

from __future__ import annotations

import pytest
import torch

from rl_motion.config import AdapterConfig, AuditError, PolicyConfig
from rl_motion.models.adapter import attach_lora
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.policies import DiffusionPolicy, audit
from tests.toy_policy import ToyDenoiser, toy_unit

pytestmark = pytest.mark.gpu


class SmallMDM(ToyDenoiser):
    """The toy's surroundings around a small real MDM, on one device."""

    def __init__(self, device: str) -> None:
        super().__init__(features=6)
        self._device = device
        torch.manual_seed(0)
        shape = {"latent_dim": 32, "ff_size": 64, "num_layers": 2, "num_heads": 2, "pos_embed_max_len": 64}
        self.network = MDM(MDMConfig(features=6, text_dim=1, mask_frames=True, **shape)).to(device)

    def encode_text(self, texts):
        return super().encode_text(texts).to(self._device)

    def null_condition(self, batch):
        return super().null_condition(batch).to(self._device)

    def predict(self, x_BFD, t_B, condition, length_B):
        return self.network(x_BFD, t_B, condition[:, None], length_B)


def policy_on(device: str) -> tuple[DiffusionPolicy, SmallMDM]:
    denoiser = SmallMDM(device)
    attach_lora(denoiser.network, AdapterConfig(rank=2))
    policy = DiffusionPolicy(denoiser, PolicyConfig(steps=5, guidance_scale=2.0))
    policy.load_adapter_state({name: tensor + 0.02 for name, tensor in policy.adapter_state().items()})
    return policy, denoiser


@pytest.fixture(autouse=True)
def _exact_matrix_products():
    """float32 as on the CPU, not TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def test_the_gpus_rollout_passes_its_audit_and_a_moved_weight_does_not() -> None:
    policy, denoiser = policy_on("cuda")
    trajectory = policy.rollout(toy_unit(frames=24))
    assert trajectory.states.device.type == "cpu"
    audit(policy, trajectory)
    with torch.no_grad():
        next(p for p in denoiser.network.parameters() if not p.requires_grad).mul_(1.001)
    with pytest.raises(AuditError, match="The adapters agree"):
        audit(policy, trajectory)


def test_gpu_and_cpu_agree_to_tolerance() -> None:
    """Not bit for bit: which is why an audit on another device fails, and has to."""
    (there, _), (here, _) = policy_on("cuda"), policy_on("cpu")
    unit = toy_unit(frames=24)
    on_gpu, on_cpu = there.rollout(unit), here.rollout(unit)
    assert on_gpu.adapter_sha256 == on_cpu.adapter_sha256
    assert on_gpu.schedule_hash == on_cpu.schedule_hash
    torch.testing.assert_close(on_gpu.states, on_cpu.states, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(on_gpu.sample, on_cpu.sample, rtol=1e-3, atol=1e-3)
    replayed_BS = there.replay(on_cpu).log_prob_BS.detach().cpu()
    torch.testing.assert_close(replayed_BS, on_cpu.log_prob_BS, rtol=1e-3, atol=1e-3)
