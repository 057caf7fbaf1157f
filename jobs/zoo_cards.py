"""Measure the packaged weights and write their model cards (rl_motion/zoo/*/README.md).

    python jobs/zoo_cards.py                                   # every card, about 5 core-minutes
    python jobs/zoo_cards.py --only t2m-unet-embedded          # one

The retrieval models: recall on the test splits of their world, agreement with the oracle on what its base makes and on
real motion with contradicting captions. The evaluators: R-precision on the test splits, and the same agreement. The
denoisers: oracle success on `original` (source/test) and `held_out` (target/test), or on second/test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, Any

import numpy as np
import torch
import typer

from rl_motion.config import PolicyConfig
from rl_motion.data import grammar, second_grammar, worlds
from rl_motion.data.embedded import Clips
from rl_motion.data.grammar import Claim, contradictions
from rl_motion.evaluation.retrieval import auc, recall_at
from rl_motion.evaluation.selection import draw
from rl_motion.evaluation.statistics import bootstrap_mean
from rl_motion.models.evaluator import Evaluator
from rl_motion.models.zoo import ZOO, RetrievalModel, load_denoiser, load_evaluator, load_tmr, names
from rl_motion.motion.joints import motion_joints
from rl_motion.policies import DiffusionPolicy
from rl_motion.types import Motions, Normalisation, Prompt, Unit

SEED = 30_000
REPLICATIONS = 20
BATCH = 32
CLIPS = 200
"""Enough to meet every combination of a test split."""
FIRST, SECOND = ("source/test", "target/test"), ("second/test",)
EVALUATORS = {"guo-embedded": FIRST, "guo-second": SECOND}
TMRS = {"tmr-embedded": FIRST, "tmr-second": SECOND}
"""With the test splits of their worlds."""
BASES = {FIRST: ("mdm-embedded", "target/test"), SECOND: ("mdm-second", "second/test")}
"""Whose samples of which captions retrieval models and evaluators are compared with the oracle on."""
GUIDANCE = 2.5
NETWORKS = {
    "mdm": "MDM `trans_enc` (arXiv:2209.14916)",
    "t2m_unet": "StableMoFusion's `T2MUnet` (arXiv:2405.05691), one level, tokens of its text masked",
}
PREDICTIONS = {"sample": "x0", "epsilon": "noise", "v_prediction": "velocity"}
LICENCE = "Apache-2.0, as the project. Trained on the embedded world only: no person's motion is in it."


def _real(split: str, number: int, seed: int) -> tuple[Clips, Motions]:
    """Captioned motion of a split, and the same as motions."""
    real, world = worlds.clips(split, number, seed), worlds.world_of(split)
    features_BFD, length_B = torch.from_numpy(real.features_NFD), torch.from_numpy(real.length_N)
    return real, Motions(features_BFD, length_B, world.fps, world.representation, Normalisation.NONE)


def _combinations(split: str) -> int:
    return len(set(worlds.clips(split, CLIPS, SEED).claims))


def _recall(model: RetrievalModel, test_splits: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of R@1 and R@3; gallery: a motion of each combination of these splits."""
    found = defaultdict(list)
    for replication in range(REPLICATIONS):
        parts = [_real(split, _combinations(split), SEED + replication) for split in test_splits]
        captions = [caption for real, _ in parts for caption in real.captions]
        motion_NC = torch.cat([model.embed_motions(motions) for _, motions in parts])
        similarity_QN = model.embed_texts(captions) @ motion_NC.T
        for k in (1, 3):
            found[f"R@{k}"].append(recall_at(similarity_QN.numpy(), k))
    return {name: (float(np.mean(v)), float(np.std(v))) for name, v in found.items()}


def _precision(model: Evaluator, names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Mean and standard deviation of R-precision top-1, 2, 3 in batches of 32 different combinations, by split."""
    found = {}
    for split in names:
        made, combinations = [], _combinations(split)
        for replication in range(REPLICATIONS):
            real, motions = _real(split, combinations, SEED + 200 + replication)
            motion_NC, text_NC = model.embed_motions(motions), model.embed_texts(real.captions)
            order = np.random.default_rng(SEED + replication).permutation(combinations)
            for rows in order[: combinations // BATCH * BATCH].reshape(-1, BATCH):
                similarity = -torch.cdist(text_NC[rows], motion_NC[rows]).numpy()
                made.append([recall_at(similarity, k) for k in (1, 2, 3)])
        found[split] = list(zip(np.mean(made, 0), np.std(made, 0), strict=True))
    return found


def _contradicted(model: RetrievalModel | Evaluator, test_splits: Sequence[str]) -> dict[str, float | None]:
    """AUC between the scores of true and of contradicting captions, real test motion, by kind and action."""
    scores: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for split in test_splits:
        (real, motions), rng = _real(split, 320, SEED + 100), Random(SEED)
        render = second_grammar.render if split in SECOND else grammar.render
        pairs = [(i, k, render(o, rng)) for i, c in enumerate(real.claims) for k, o in _denials(split, c)]
        row = [i for i, _, _ in pairs]
        motions = replace(motions, features_BFD=motions.features_BFD[row], length_B=motions.length_B[row])
        true_P = _fit(model, motions, [real.captions[i] for i in row]).tolist()
        false_P = _fit(model, motions, [text for _, _, text in pairs]).tolist()
        for (i, kind, _), true, false in zip(pairs, true_P, false_P, strict=True):
            claim = real.claims[i]
            side = "clockwise" if "clockwise" in claim.side else "left/right"
            name = side if kind == "side" else kind
            for key in (f"{name}: all", f"{name}: {claim.action}"):
                scores[key] += [(true, True), (false, False)]
    return {key: auc(*zip(*pairs, strict=True)) for key, pairs in sorted(scores.items())}


def _denials(split: str, claim: Claim) -> list[tuple[str, Claim]]:
    """What contradicts a claim, by kind, as far as the split's world speaks of it."""
    known = second_grammar.speaks_of if split in SECOND else lambda other: True
    return [(kind, other) for kind, other in contradictions(claim).items() if known(other)]


def _sampled(name: str, split: str, samples: int) -> list[tuple[Prompt, bool, Motions]]:
    denoiser = load_denoiser(name)
    policy = DiffusionPolicy(denoiser, PolicyConfig(guidance_scale=GUIDANCE))
    world, asked, out = worlds.world_of(split), draw(worlds.prompts(split, denoiser.fps), 128, seed=SEED), []
    for start in range(0, len(asked), 8):
        unit = Unit(SEED, 0, start // 8, tuple(asked[start : start + 8]), samples)
        motions = policy.decode(policy.rollout(unit))
        joints = motion_joints(motions).numpy()
        for row, prompt in enumerate(unit.row_prompts):
            shown = motions.features_BFD[row : row + 1], motions.length_B[row : row + 1]
            one = replace(motions, features_BFD=shown[0], length_B=shown[1])
            own = joints[row, : prompt.length]
            out.append((prompt, world.success(motions.representation, prompt.text, own, motions.fps), one))
    return out


def _success(denoiser: str, named: Mapping[str, str]) -> dict[str, Any]:
    """Oracle success on splits by name with its interval (bootstrap by prompt), overall and per class."""
    out: dict[str, Any] = {}
    for name, split in named.items():
        made = _sampled(denoiser, split, 4)
        by_prompt, by_group = defaultdict(list), defaultdict(list)
        for prompt, success, _ in made:
            by_prompt[prompt.id].append(float(success))
            by_group[prompt.group].append(float(success))
        values = [v for group in by_prompt.values() for v in group]
        clusters = [key for key, group in by_prompt.items() for _ in group]
        out[name] = bootstrap_mean(values, clusters, seed=SEED)
        out[f"{name} by class"] = {g: float(np.mean(v)) for g, v in sorted(by_group.items())}
    return out


def _fit(model: RetrievalModel | Evaluator, motions: Motions, texts: Sequence[str]) -> torch.Tensor:
    """How well motion i fits text i [B]: the cosine, or the negative distance."""
    if isinstance(model, RetrievalModel):
        return model.similarity(motions, texts)
    return -(model.embed_motions(motions) - model.embed_texts(texts)).norm(dim=-1)


def _agreement(model: RetrievalModel | Evaluator, denoiser: str, split: str) -> dict[str, float | None]:
    """AUC of a model for the oracle's verdict on what the base makes of a split's captions, per action."""
    scores: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for prompt, success, motion in _sampled(denoiser, split, 4):
        for key in ("all", prompt.group):
            scores[key].append((_fit(model, motion, [prompt.text]).item(), success))
    return {key: auc(*zip(*pairs, strict=True)) for key, pairs in sorted(scores.items())}


def _table(values: dict[str, float | None]) -> str:
    rows = [f"| {k} | {'n/a (one outcome only)' if v is None else f'{v:.3f}'} |" for k, v in values.items()]
    return "\n".join(["| | AUC |", "| --- | --- |", *rows])


def _seen(test_splits: Sequence[str]) -> str:
    return " and ".join(split.replace("test", "train") for split in test_splits)


def _tmr_card(name: str) -> str:
    model, test_splits = load_tmr(name), TMRS[name]
    recall = _recall(model, test_splits)
    gallery = sum(_combinations(split) for split in test_splits)
    lines = [
        f"- {k} = {mean:.3f} (standard deviation {sd:.3f} over {REPLICATIONS} draws)"
        for k, (mean, sd) in recall.items()
    ]
    return f"""# {name}

TMR motion and text encoders (arXiv:2305.00976), InfoNCE, the mean as embedding. The reward of the embedded jobs.
Reads {model.representation} motion at {model.fps:g} fps. Trained on motion and captions of {_seen(test_splits)}; never
on val or test combinations.

## Retrieval, text to motion, test combinations (unseen)

Gallery: one motion of each combination of {" and ".join(test_splits)} ({gallery}).

{chr(10).join(lines)}

## Agreement with the oracle

{_judged(model, test_splits, "cosine")}
Measured at model seed {SEED}. {LICENCE}
"""


def _evaluator_card(name: str) -> str:
    model = load_evaluator(name)
    size, words, shape = sum(p.numel() for p in model.parameters()), len(model.vocabulary.words), model.guo.config
    widths = (
        f"movement {shape.movement_latent}, GRU of motion {shape.motion_hidden}, of text {shape.text_hidden}, common "
        f"space {shape.coembedding}"
    )
    rows = [
        f"| {split} | {' | '.join(f'{mean:.3f} ({sd:.3f})' for mean, sd in values)} |"
        for split, values in _precision(model, EVALUATORS[name]).items()
    ]
    reward = "tmr-embedded" if EVALUATORS[name] == FIRST else "tmr-second"
    return f"""# {name}

Guo et al.'s text-to-motion evaluator (CVPR 2022), {size / 1e6:.2f} M parameters as float16: {widths}.
It judges, and is never a reward: other networks, another text encoder ({words} words of its own with their parts of
speech), other motions and other seeds than `{reward}`. Points are compared by Euclidean distance. The statistics
are its own, the root's motion weighted.
Reads {model.representation} motion at {model.fps:g} fps. Trained contrastively on motion and captions of
{_seen(EVALUATORS[name])}, never of val or test combinations.

## R-precision, text to motion, test combinations (unseen)

Batches of {BATCH} different combinations, the last incomplete one dropped, real motion; mean (standard deviation) over
the batches of {REPLICATIONS} draws:

| | top-1 | top-2 | top-3 |
| --- | --- | --- | --- |
{chr(10).join(rows)}

## Agreement with the oracle

{_judged(model, EVALUATORS[name], "negative distance")}
Measured at seed {SEED}. {LICENCE}
"""


def _judged(model: RetrievalModel | Evaluator, test_splits: tuple[str, ...], score: str) -> str:
    base, split = BASES[test_splits]
    return f"""AUC of the {score} for the oracle's verdict, 512 motions that `{base}` makes of {split} captions:

{_table(_agreement(model, base, split))}

AUC between true and contradicting captions of real test motion, by what is contradicted:

{_table(_contradicted(model, test_splits))}
"""


def _motion_seen(name: str) -> str:
    if name == "mdm-second":
        return "second/train"
    if "upper" in name:
        return "source/train and target/train (the supervised upper bound)"
    _, without, action = name.partition("-no-")
    return f"source/train without the action `{action}`" if without else "source/train"


def _denoiser_card(name: str, kind: str) -> str:
    denoiser = load_denoiser(name)
    second = {"second": "second/test"}
    named = second if name == "mdm-second" else {"original": "source/test", "held_out": "target/test"}
    measured = _success(name, named)
    schedule, size = denoiser.schedule, sum(p.numel() for p in denoiser.network.parameters())
    rows = []
    for split in named:
        found = measured[split]
        rows.append(f"| {split} | {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] | {found.n} |")
    by_class = [measured[f"{split} by class"] for split in named]
    groups = sorted({group for found in by_class for group in found})
    cells = {g: " | ".join(f"{found[g]:.2f}" if g in found else "-" for found in by_class) for g in groups}
    classes = [f"| {group} | {cell} |" for group, cell in cells.items()]
    return f"""# {name}

{NETWORKS[kind]}, {size / 1e6:.2f} M parameters, {PREDICTIONS[denoiser.prediction_type]} prediction,
{schedule.timesteps} {schedule.betas} steps, masked frames, {denoiser.fps:g} fps, {denoiser.representation} with the
body's own heading. Trained on motion and captions of {_motion_seen(name)}.

Oracle success, 10 steps of SDE-DPM-Solver++ order 2, guidance {GUIDANCE}, 128 prompts
x 4 samples, 95 % bootstrap by prompt:

| Split | Success | n |
| --- | --- | --- |
{chr(10).join(rows)}

| Class | {" | ".join(named)} |
| --- |{" --- |" * len(named)}
{chr(10).join(classes)}

Measured at seed {SEED}. {LICENCE}
"""


def main(
    only: Annotated[str | None, typer.Option(help="The one model whose card is written; default: all.")] = None,
) -> None:
    """Write the cards."""
    torch.set_grad_enabled(False)
    kinds = {name: kind for kind in NETWORKS for name in names({kind})}
    for name in [only] if only else [*TMRS, *EVALUATORS, *kinds]:
        if name in TMRS:
            card = _tmr_card(name)
        elif name in EVALUATORS:
            card = _evaluator_card(name)
        else:
            card = _denoiser_card(name, kinds[name])
        (ZOO / name / "README.md").write_text(card, encoding="utf-8")
        typer.echo(card)


if __name__ == "__main__":
    typer.run(main)
