"""Measure the packaged weights and write their model cards (rl_motion/zoo/*/README.md).

    python jobs/zoo_cards.py                                   # every card, about 5 core-minutes
    python jobs/zoo_cards.py --only t2m-unet-embedded          # one

The retrieval model: recall on the test splits, agreement with the oracle on what the base makes and on real motion with
contradicting captions. The evaluator: R-precision on the test splits, and the same agreement. The denoisers: oracle
success on `original` (source/test) and `held_out` (target/test).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Annotated, Any

import numpy as np
import torch
import typer

from rl_motion.config import PolicyConfig
from rl_motion.data import worlds
from rl_motion.data.embedded import clips, prompts, splits
from rl_motion.data.grammar import contradictions, render
from rl_motion.data.oracle import check
from rl_motion.evaluation.retrieval import auc, recall_at
from rl_motion.evaluation.selection import draw
from rl_motion.evaluation.statistics import bootstrap_mean
from rl_motion.models.evaluator import Evaluator
from rl_motion.models.zoo import ZOO, RetrievalModel, load_denoiser, load_evaluator, load_tmr, names
from rl_motion.motion.features import features_to_joints
from rl_motion.policies import DiffusionPolicy
from rl_motion.types import Motions, Normalisation, Prompt, Representation, Unit

SEED = 30_000
REPLICATIONS = 20
BATCH = 32
CLIPS = 200
"""Enough to meet every combination of a test split."""
EVALUATORS = {"guo-embedded": ("source/test", "target/test"), "guo-second": ("second/test",)}
"""With the test splits of their worlds."""
GUIDANCE = 2.5
NETWORKS = {
    "mdm": "MDM `trans_enc` (arXiv:2209.14916)",
    "t2m_unet": "StableMoFusion's `T2MUnet` (arXiv:2405.05691), one level, tokens of its text masked",
}
PREDICTIONS = {"sample": "x0", "epsilon": "noise", "v_prediction": "velocity"}
LICENCE = "Apache-2.0, as the project. Trained on the embedded world only: no person's motion is in it."


def _motions(features: torch.Tensor, length: torch.Tensor) -> Motions:
    return Motions(features, length, 20.0, Representation.HUMANML3D_263, Normalisation.NONE)


def _recall(model: RetrievalModel) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of R@1 and R@3; gallery: a motion of each combination of both test splits."""
    found = defaultdict(list)
    for replication in range(REPLICATIONS):
        parts = [
            clips(s, n, SEED + replication)
            for s, n in ((name, len(splits()[name])) for name in ("source/test", "target/test"))
        ]
        features = torch.from_numpy(np.concatenate([p.features_NFD for p in parts]))
        length = torch.from_numpy(np.concatenate([p.length_N for p in parts]))
        captions = [c for p in parts for c in p.captions]
        similarity_QN = model.embed_texts(captions) @ model.embed_motions(_motions(features, length)).T
        for k in (1, 3):
            found[f"R@{k}"].append(recall_at(similarity_QN.numpy(), k))
    return {name: (float(np.mean(v)), float(np.std(v))) for name, v in found.items()}


def _precision(model: Evaluator, names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Mean and standard deviation of R-precision top-1, 2, 3 in batches of 32 different combinations, by split."""
    found = {}
    for split in names:
        made, combinations = [], len({claim.key for claim in worlds.clips(split, CLIPS, SEED).claims})
        for replication in range(REPLICATIONS):
            real = worlds.clips(split, combinations, SEED + 200 + replication)
            features_BFD, length_B = torch.from_numpy(real.features_NFD), torch.from_numpy(real.length_N)
            motions = Motions(features_BFD, length_B, model.fps, model.representation, Normalisation.NONE)
            motion_NC, text_NC = model.embed_motions(motions), model.embed_texts(real.captions)
            order = np.random.default_rng(SEED + replication).permutation(combinations)
            for rows in order[: combinations // BATCH * BATCH].reshape(-1, BATCH):
                similarity = -torch.cdist(text_NC[rows], motion_NC[rows]).numpy()
                made.append([recall_at(similarity, k) for k in (1, 2, 3)])
        found[split] = list(zip(np.mean(made, 0), np.std(made, 0), strict=True))
    return found


def _contradicted(model: RetrievalModel | Evaluator) -> dict[str, float | None]:
    """AUC between the scores of true and of contradicting captions, real test motion, by kind and action."""
    scores: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for split in ("source/test", "target/test"):
        real, rng = clips(split, 320, SEED + 100), Random(SEED)
        pairs = [(i, k, render(o, rng)) for i, c in enumerate(real.claims) for k, o in contradictions(c).items()]
        row = [i for i, _, _ in pairs]
        motions = _motions(torch.from_numpy(real.features_NFD[row]), torch.from_numpy(real.length_N[row]))
        true_P = _fit(model, motions, [real.captions[i] for i in row]).tolist()
        false_P = _fit(model, motions, [text for _, _, text in pairs]).tolist()
        for (i, kind, _), true, false in zip(pairs, true_P, false_P, strict=True):
            claim = real.claims[i]
            side = "clockwise" if "clockwise" in claim.side else "left/right"
            name = side if kind == "side" else kind
            for key in (f"{name}: all", f"{name}: {claim.action}"):
                scores[key] += [(true, True), (false, False)]
    return {key: auc(*zip(*pairs, strict=True)) for key, pairs in sorted(scores.items())}


def _sampled(denoiser: str, asked: list[Prompt], samples: int) -> list[tuple[Prompt, bool, Motions]]:
    policy = DiffusionPolicy(load_denoiser(denoiser), PolicyConfig(guidance_scale=GUIDANCE))
    out = []
    for start in range(0, len(asked), 8):
        unit = Unit(SEED, 0, start // 8, tuple(asked[start : start + 8]), samples)
        motions = policy.decode(policy.rollout(unit))
        joints = features_to_joints(motions.features_BFD)
        for row, prompt in enumerate(unit.row_prompts):
            one = _motions(motions.features_BFD[row : row + 1], motions.length_B[row : row + 1])
            out.append((prompt, check(prompt.text, joints[row, : prompt.length].numpy()).success, one))
    return out


def _success(denoiser: str) -> dict[str, Any]:
    """Oracle success with its interval (bootstrap by prompt), overall and per class."""
    out: dict[str, Any] = {}
    for name, split in (("original", "source/test"), ("held_out", "target/test")):
        made = _sampled(denoiser, list(draw(prompts(split), 128, seed=SEED)), 4)
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


def _agreement(model: RetrievalModel | Evaluator, denoiser: str) -> dict[str, float | None]:
    """AUC of a model for the oracle's verdict on what the base makes of target/test captions, per action."""
    scores: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for prompt, success, motion in _sampled(denoiser, list(draw(prompts("target/test"), 128, seed=SEED)), 4):
        for key in ("all", prompt.group):
            scores[key].append((_fit(model, motion, [prompt.text]).item(), success))
    return {key: auc(*zip(*pairs, strict=True)) for key, pairs in sorted(scores.items())}


def _table(values: dict[str, float | None]) -> str:
    rows = [f"| {k} | {'n/a (one outcome only)' if v is None else f'{v:.3f}'} |" for k, v in values.items()]
    return "\n".join(["| | AUC |", "| --- | --- |", *rows])


def _tmr_card(base: str) -> str:
    model = load_tmr("tmr-embedded")
    recall = _recall(model)
    gallery = sum(len(splits()[name]) for name in ("source/test", "target/test"))
    lines = [
        f"- {k} = {mean:.3f} (standard deviation {sd:.3f} over {REPLICATIONS} draws)"
        for k, (mean, sd) in recall.items()
    ]
    return f"""# tmr-embedded

TMR motion and text encoders (arXiv:2305.00976), InfoNCE, the mean as embedding. The reward of the embedded jobs.
Trained on motion and captions of source/train and target/train; never on val or test combinations.

## Retrieval, text to motion, test combinations (unseen)

Gallery: one motion of each combination of source/test and target/test ({gallery}).

{chr(10).join(lines)}

## Agreement with the oracle

AUC of the cosine for the oracle's verdict, 512 motions that `{base}` makes of target/test captions:

{_table(_agreement(model, base))}

AUC between true and contradicting captions of real test motion, by what is contradicted:

{_table(_contradicted(model))}

Measured at model seed {SEED}. {LICENCE}
"""


def _evaluator_card(name: str, base: str) -> str:
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
    seen = " and ".join(split.replace("test", "train") for split in EVALUATORS[name])
    return f"""# {name}

Guo et al.'s text-to-motion evaluator (CVPR 2022), {size / 1e6:.2f} M parameters as float16: {widths}.
It judges, and is never a reward: other networks, another text encoder ({words} words of its own with their parts of
speech), other motions and other seeds than `tmr-embedded`. Points are compared by Euclidean distance. The statistics
are its own, the root's motion weighted.
Reads {model.representation} motion at {model.fps:g} fps. Trained contrastively on motion and captions of {seen},
never of val or test combinations.

## R-precision, text to motion, test combinations (unseen)

Batches of {BATCH} different combinations, the last incomplete one dropped, real motion; mean (standard deviation) over
the batches of {REPLICATIONS} draws:

| | top-1 | top-2 | top-3 |
| --- | --- | --- | --- |
{chr(10).join(rows)}

{_judged(model, base) if name == "guo-embedded" else ""}Measured at seed {SEED}. {LICENCE}
"""


def _judged(model: Evaluator, base: str) -> str:
    return f"""## Agreement with the oracle

AUC of the negative distance for the oracle's verdict, 512 motions that `{base}` makes of target/test captions:

{_table(_agreement(model, base))}

AUC between true and contradicting captions of real test motion, by what is contradicted:

{_table(_contradicted(model))}

"""


def _denoiser_card(name: str, kind: str) -> str:
    measured, denoiser = _success(name), load_denoiser(name)
    schedule, size = denoiser.schedule, sum(p.numel() for p in denoiser.network.parameters())
    seen = "source/train and target/train (the supervised upper bound)" if "upper" in name else "source/train"
    rows = []
    for split in ("original", "held_out"):
        found = measured[split]
        rows.append(f"| {split} | {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] | {found.n} |")
    original, held_out = measured["original by class"], measured["held_out by class"]
    classes = [f"| {g} | {v:.2f} | {f'{held_out[g]:.2f}' if g in held_out else '-'} |" for g, v in original.items()]
    return f"""# {name}

{NETWORKS[kind]}, {size / 1e6:.2f} M parameters, {PREDICTIONS[denoiser.prediction_type]} prediction,
{schedule.timesteps} {schedule.betas} steps, masked frames, 20 fps, HumanML3D 263-d with the body's own heading.
Trained on motion and captions of {seen}.

Oracle success, 10 steps of SDE-DPM-Solver++ order 2, guidance {GUIDANCE}, 128 prompts
x 4 samples, 95 % bootstrap by prompt:

| Split | Success | n |
| --- | --- | --- |
{chr(10).join(rows)}

| Class | original | held_out |
| --- | --- | --- |
{chr(10).join(classes)}

Measured at seed {SEED}. {LICENCE}
"""


def main(
    base: Annotated[str, typer.Option(help="Whose samples the reward is measured on.")] = "mdm-embedded",
    only: Annotated[str | None, typer.Option(help="The one model whose card is written; default: all.")] = None,
) -> None:
    """Write the cards."""
    torch.set_grad_enabled(False)
    kinds = {name: kind for kind in NETWORKS for name in names({kind})}
    for name in [only] if only else ["tmr-embedded", *EVALUATORS, *kinds]:
        if name == "tmr-embedded":
            card = _tmr_card(base)
        elif name in EVALUATORS:
            card = _evaluator_card(name, base)
        else:
            card = _denoiser_card(name, kinds[name])
        (ZOO / name / "README.md").write_text(card, encoding="utf-8")
        typer.echo(card)


if __name__ == "__main__":
    typer.run(main)
