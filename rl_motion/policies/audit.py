"""The audit: before anything is learned, replay must reproduce the rollout bit for bit, with the same adapter.

Log-probs alone do not see everything: while a fresh adapter's B matrices are zero, its A matrices change no output.
"""

from __future__ import annotations

import torch

from rl_motion.config import AuditError
from rl_motion.models.adapter import adapter_checksum
from rl_motion.protocols import MotionPolicy
from rl_motion.types import Trajectory


def audit(policy: MotionPolicy, trajectory: Trajectory) -> None:
    """Replay as the learner does, with gradient, and compare adapter and log-probs with the rollout's.

    Raises:
        AuditError: the adapter or any log-prob differs in any bit (NaN included); names the largest difference
            and what usually causes it.
    """
    own = adapter_checksum(policy.adapter_state())
    with torch.enable_grad():
        replayed_BS = policy.replay(trajectory).log_prob_BS.detach().cpu()
    behaviour_BS = trajectory.log_prob_BS
    if own == trajectory.adapter_sha256 and torch.equal(replayed_BS, behaviour_BS):
        return
    difference_BS = (replayed_BS - behaviour_BS).abs().nan_to_num(nan=torch.inf)
    row, step = divmod(int(difference_BS.argmax()), difference_BS.shape[1])
    raise AuditError(
        f"got a largest |log-prob difference| of {difference_BS.max().item():.3g} between replay and "
        f"rollout (unit {trajectory.unit.index}, row {row}, transition {step}; "
        f"{int((difference_BS != 0).sum())} of {difference_BS.numel()} differ); want exactly 0 and the "
        f"same adapter. {_likely_cause(own, trajectory)} Nothing was updated: correct that and start or resume the run."
    )


def _likely_cause(own: str, trajectory: Trajectory) -> str:
    if own != trajectory.adapter_sha256:
        return (
            f"The rollout used adapter {trajectory.adapter_sha256[:12]}, the learner has {own[:12]}: send "
            "the learner's adapter to the rollout workers before they sample."
        )
    return (
        "The adapters agree, so look for dropout left on (`train()` on the network), base weights that "
        "differ, another number of threads or another device, or a layer with a fast path that runs without "
        "gradient only."
    )
