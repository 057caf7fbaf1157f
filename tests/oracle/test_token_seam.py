"""A categorical policy (T2M-GPT's kind) meets the seams: what it says is what enumerating every sequence says.

Legend: N sequences.
"""

from __future__ import annotations

import dataclasses
import io
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from rl_motion.algorithms import DDPO
from rl_motion.config import AlgorithmConfig, AuditError, Job, TrainConfig, UserError
from rl_motion.learner import Learner
from rl_motion.policies import audit
from rl_motion.protocols import DenoisingPolicy, MotionPolicy
from rl_motion.runtime import frontend
from rl_motion.types import Experience, Prompt, Trajectory, Unit
from tests import token_toy
from tests.fakes import learn, result, rise
from tests.token_toy import CODES, END, START, TokenPolicy, decode, near_B, token_job

PROMPT = Prompt("p", "a person walks", 4)
PLAIN = AlgorithmConfig(balance="none")


def sequences() -> list[tuple[int, ...]]:
    """Every sequence of at most two tokens, the end token included where there is one."""
    return [(END,), *product(range(CODES), range(CODES + 1))]


def enumerated(policy: TokenPolicy) -> Trajectory:
    """All of them as the rows of one trajectory."""
    found = sequences()
    unit = Unit(0, 0, 0, (PROMPT,), len(found))
    states = torch.tensor([[START, *s, *[END] * (2 - len(s))] for s in found])
    drawn_BS = torch.tensor([[True] * len(s) + [False] * (2 - len(s)) for s in found])
    blank = dataclasses.replace(policy.rollout(unit), states=states, sample=states[:, 1:], drawn_BS=drawn_BS)
    with torch.no_grad():
        log_prob_BS = policy.replay(blank).log_prob_BS
    length_B = 2 * (states[:, 1:] != END).sum(dim=1).clamp_min(1)
    return dataclasses.replace(blank, log_prob_BS=log_prob_BS, length_B=length_B)


def probability_N(policy: TokenPolicy) -> Tensor:
    """Each sequence's probability from the network alone, with gradient."""
    condition_1 = torch.tensor([len(PROMPT.text) / 10.0], dtype=torch.float64)
    found = []
    for sequence in sequences():
        tokens, total = [START], torch.ones((), dtype=torch.float64)
        for token in sequence:
            total = total * policy.network(torch.tensor([tokens]), condition_1)[0].softmax(dim=0)[token]
            tokens.append(token)
        found.append(total)
    return torch.stack(found)


def flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def relative(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.fixture
def policy() -> TokenPolicy:
    return TokenPolicy(steps=2, dtype=torch.float64)


def test_seams_are_met(policy: TokenPolicy) -> None:
    assert isinstance(policy, MotionPolicy)
    assert not isinstance(policy, DenoisingPolicy)


def test_log_probs_are_those_of_every_sequence(policy: TokenPolicy) -> None:
    total_N = policy.replay(enumerated(policy)).log_prob_BS.sum(dim=1).exp()
    torch.testing.assert_close(total_N, probability_N(policy), rtol=1e-12, atol=0)
    assert float(total_N.detach().sum()) == pytest.approx(1.0, abs=1e-12)


def test_rollout_draws_each_sequence_as_often_as_it_should(policy: TokenPolicy) -> None:
    count = 3000
    tokens = policy.rollout(Unit(0, 0, 0, (PROMPT,), count)).sample.tolist()
    ended = [tuple(row) if row[0] != END else (END,) for row in tokens]
    for sequence, p in zip(sequences(), probability_N(policy).tolist(), strict=True):
        deviation = math.sqrt(count * p * (1 - p))
        assert abs(ended.count(sequence) - count * p) < 4 * deviation + 1


def test_rows_end_when_they_end() -> None:
    policy = TokenPolicy()
    trajectory = policy.rollout(Unit(0, 0, 0, (PROMPT,), 64))
    lengths = set()
    for row in range(64):
        tokens = trajectory.sample[row].tolist()
        codes = tokens.index(END) if END in tokens else 4
        assert trajectory.drawn_BS[row].tolist() == [k <= codes for k in range(4)]
        assert trajectory.length_B[row] == 2 * max(codes, 1)
        lengths.add(codes)
    assert len(lengths) > 3
    assert float(trajectory.log_prob_BS[~trajectory.drawn_BS].abs().max()) == 0.0
    assert float(trajectory.log_prob_BS[trajectory.drawn_BS].max()) < 0.0
    motions = policy.decode(trajectory)
    valid_BF = torch.arange(motions.features_BFD.shape[1]) < motions.length_B[:, None]
    assert float(motions.features_BFD[~valid_BF].abs().max()) == 0.0


def test_audit_is_exact_and_notices(policy: TokenPolicy) -> None:
    trajectory = policy.rollout(Unit(0, 0, 0, (PROMPT,), 16))
    audit(policy, trajectory)
    with torch.no_grad():
        policy.network.outer.bias.mul_(1.001)
    with pytest.raises(AuditError, match="The adapters agree"):
        audit(policy, trajectory)


def gradients(policy: TokenPolicy, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
    """(of DDPO's loss over all sequences, each weighing as often as it is drawn; of the expected reward, exactly)."""
    reward_N = near_B(decode(enumerated(policy)))
    parameters = list(policy.adapter_parameters().values())
    exact = torch.autograd.grad((probability_N(policy) * reward_N).sum(), parameters)
    # The loss is a sum over what was drawn, divided by rows times steps.
    advantage_B = probability_N(policy).detach() * reward_N * trajectory.drawn_BS.numel()
    loss, _ = DDPO(PLAIN).loss(policy, Experience(trajectory, advantage_B, reward_N))
    return flat(torch.autograd.grad(-loss, parameters)), flat(exact)


def test_the_gradient_is_the_exact_policy_gradient(policy: TokenPolicy) -> None:
    got, want = gradients(policy, enumerated(policy))
    assert float(want.norm()) > 1e-2
    assert relative(got, want) < 1e-12


def test_control_a_gradient_without_the_end_token_is_biased(policy: TokenPolicy) -> None:
    """Ending is a choice of the policy: taken for padding it would not be scored."""
    trajectory = enumerated(policy)
    codes_only = dataclasses.replace(trajectory, drawn_BS=trajectory.drawn_BS & (trajectory.sample != END))
    got, want = gradients(policy, codes_only)
    assert relative(got, want) > 0.05


def test_kl_is_that_of_the_sequences(policy: TokenPolicy) -> None:
    """Chain rule: the KL of sequences is the expected sum of the tokens'."""
    trajectory = enumerated(policy)
    p_N = probability_N(policy).detach()
    state = policy.adapter_state()
    policy.load_adapter_state({name: torch.zeros_like(tensor) for name, tensor in state.items()})
    q_N = probability_N(policy).detach()
    policy.load_adapter_state(state)
    want = float((p_N * (p_N / q_N).log()).sum())
    replay, reference = policy.replay(trajectory), policy.replay(trajectory, adapter=False)
    kl_BS = replay.kl(reference).detach()
    assert want > 1e-3
    assert float((p_N * kl_BS.sum(dim=1)).sum()) == pytest.approx(want, rel=1e-12)
    assert float(kl_BS[~trajectory.drawn_BS].abs().max()) == 0.0
    assert float(reference.kl(reference).abs().max()) == 0.0
    # Control: counted beyond the end, it would be too large.
    everywhere = dataclasses.replace(replay, drawn_BS=torch.ones_like(trajectory.drawn_BS))
    assert float((p_N * everywhere.kl(reference).sum(dim=1)).sum().detach()) > 1.01 * want


def test_the_loss_is_a_sum_over_the_tokens_drawn_per_row_and_step() -> None:
    config = AlgorithmConfig(balance="none", clip_range=0.05, kl_weight=0.3)
    policy = TokenPolicy(dtype=torch.float64)
    trajectory = policy.rollout(Unit(0, 0, 0, (PROMPT,), 16))
    policy.load_adapter_state({n: 1.3 * t for n, t in policy.adapter_state().items()})
    reward_B = near_B(decode(trajectory))
    loss, metrics = DDPO(config).loss(policy, Experience(trajectory, reward_B - reward_B.mean(), reward_B))
    with torch.no_grad():
        replay, reference = policy.replay(trajectory), policy.replay(trajectory, adapter=False)
    terms, kls, outside = [], [[] for _ in range(4)], 0
    for row, step in trajectory.drawn_BS.nonzero().tolist():
        ratio = math.exp(replay.log_prob_BS[row, step] - trajectory.log_prob_BS[row, step])
        advantage = float(reward_B[row] - reward_B.mean())
        clipped = min(max(ratio, 0.95), 1.05)
        log_p, log_q = (r.logits_BSV[row, step].log_softmax(dim=0) for r in (replay, reference))
        kls[step].append(float((log_p.exp() * (log_p - log_q)).sum()))
        terms.append(-min(ratio * advantage, clipped * advantage) + 0.3 * kls[step][-1])
        outside += abs(ratio - 1.0) > 0.05
    assert len(terms) < 64
    assert loss.item() == pytest.approx(sum(terms) / 64, rel=1e-12)
    assert metrics["policy/clip_fraction"] == pytest.approx(outside / 64)
    assert metrics["policy/kl"] == pytest.approx(sum(map(sum, kls)) / 64)
    assert metrics["policy/kl_s02"] == pytest.approx(sum(kls[2]) / len(kls[2]))
    assert sum(metrics[f"policy/gradient_share_s{k:02d}"] for k in range(4)) == pytest.approx(1.0)


def test_steps_that_no_row_has_are_not_recorded() -> None:
    policy = TokenPolicy()
    trajectory = policy.rollout(Unit(0, 0, 0, (PROMPT,), 8))
    short = dataclasses.replace(trajectory, drawn_BS=trajectory.drawn_BS & (torch.arange(4) < 2))
    _, metrics = DDPO(PLAIN).loss(policy, Experience(short, torch.ones(8), torch.ones(8)))
    assert {name for name in metrics if name.endswith("_s01")} - {"policy/gradient_share_s01"} == {
        "policy/clip_fraction_s01",
        "policy/kl_s01",
        "policy/abs_dlogp_s01",
    }
    assert [name for name in metrics if name.endswith("_s03")] == ["policy/gradient_share_s03"]
    assert metrics["policy/gradient_share_s03"] == 0.0
    assert all(map(math.isfinite, metrics.values()))


def test_a_balance_that_tokens_do_not_have_is_refused(policy: TokenPolicy) -> None:
    trajectory = policy.rollout(Unit(0, 0, 0, (PROMPT,), 4))
    experience = Experience(trajectory, torch.ones(4), torch.ones(4))
    learner = Learner(policy, DDPO(AlgorithmConfig(balance="snr")), TrainConfig())
    with pytest.raises(UserError, match=r"needs 'snr'.*set algorithm.balance: none"):
        learner.step([experience])
    Learner(policy, DDPO(PLAIN), TrainConfig()).step([experience])


def run(job: Job, out: Path) -> Path:
    return frontend.start(job, out, Console(file=io.StringIO())).folder


def test_a_toy_reward_rises() -> None:
    found = learn(token_job(iterations=20), token_toy.WORKSHOP)
    assert rise(found) > 0.2
    assert found[-1]["policy/kl"] > 0.1


def test_a_resume_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "MEANS", token_toy.MEANS)
    whole = result(run(token_job(), tmp_path))
    part = run(token_job(iterations=1), tmp_path)
    frontend.resume(part, ["train.iterations=3"], Console(file=io.StringIO()))
    assert result(part) == whole
