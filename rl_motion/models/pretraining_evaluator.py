"""Training of an evaluator: its statistics, its words and its three networks at once, contrastively.

Legend: N clips, B batch, F frames, D features, C co-embedding, M motions of a batch with the unfinished ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.evaluator import POS, Evaluator, Vocabulary
from rl_motion.models.fitting import Loss, OnStep, Recipe, Rows, Witness, fit
from rl_motion.models.guo import Guo, GuoConfig
from rl_motion.models.layers import valid_mask
from rl_motion.models.pretraining import layout_of
from rl_motion.motion.features import ROOT_VEL
from rl_motion.types import Representation

ROOT_WEIGHT = 5.0
"""How many times its own deviation the root's motion counts. The official evaluator's statistics do this with 25, and
with the contacts, which its networks do not see."""
_WORDS_DROPPED = 0.05
"""Share of words that training replaces by the unknown one, so that it has a meaning."""
_NOISE = 0.15
"""Largest deviation of the noise on normalised features: points are smooth around real motion."""


@dataclass(frozen=True, slots=True)
class Captioned:
    """Un-normalised motion with captions: features_NFD (zero beyond length), length_N, caption_N into the captions.

    meaning_N: what a clip shows. Clips of one meaning fit each other's captions, so no batch holds two of them.
    """

    features_NFD: Rows
    length_N: Tensor
    caption_N: Tensor
    meaning_N: Tensor


def evaluator_statistics(parts: Sequence[Captioned]) -> tuple[Tensor, Tensor]:
    """Mean [D] and deviation [D] over valid frames, the deviation shared within a group of features.

    The root's is divided by `ROOT_WEIGHT`.
    """
    layout = layout_of(parts[0].features_NFD[torch.arange(1)].shape[-1])
    frames = sum(int(p.length_N.sum()) for p in parts)
    mean_D = torch.stack([x_XD.sum(0) for x_XD in _valid(parts)]).sum(0) / frames
    square_D = torch.stack([(x_XD - mean_D).square().sum(0) for x_XD in _valid(parts)]).sum(0)
    std_D = (square_D / (frames - 1)).sqrt()
    root = (slice(0, 1), slice(1, 3), slice(3, 4))
    for group in (*root, layout.joints, layout.rot6d, layout.vel, layout.feet):
        std_D[group] = std_D[group].mean().clamp_min(1e-3)
    std_D[: root[-1].stop] /= ROOT_WEIGHT
    return mean_D.float(), std_D.float()


def _valid(parts: Sequence[Captioned]) -> Iterator[Tensor]:
    """Valid frames [X, D] in float64, a thousand clips at a time: together they would need a lot of memory."""
    for part in parts:
        for rows in torch.arange(len(part.length_N)).split(1000):
            x_NFD, length_N = part.features_NFD[rows], part.length_N[rows]
            yield x_NFD[valid_mask(length_N, x_NFD.shape[1])].double()


def euclidean_loss(text_BC: Tensor, motion_MC: Tensor, same_BB: Tensor) -> Tensor:
    """Symmetric cross-entropy of matching rows on negative squared distances.

    Motions beyond B are negatives of every text. `same_BB`: pairs that are no negatives of each other, as their
    captions are the same; the diagonal counts all the same. The official loss is a margin on the distance of one
    random negative instead.
    """
    batch = len(text_BC)
    logit_BM = -(text_BC[:, None] - motion_MC[None]).square().sum(-1)
    hidden_BB = same_BB & ~torch.eye(batch, dtype=torch.bool, device=same_BB.device)
    hidden_BM = functional.pad(hidden_BB, (0, len(motion_MC) - batch))
    logit_BM = logit_BM.masked_fill(hidden_BM, -torch.inf)
    label_B = torch.arange(batch, device=logit_BM.device)
    by_motion = functional.cross_entropy(logit_BM[:, :batch].T, label_B)
    return (functional.cross_entropy(logit_BM, label_B) + by_motion) / 2


def new_evaluator(captions: Sequence[str], shape: GuoConfig, space: MotionSpace) -> Evaluator:
    """An untrained evaluator; torch's generator decides its first weights.

    Args:
        captions: whose words are its vocabulary.
        shape: of the networks; `features` and `pos_size` are set here.
        space: of the motion, with the evaluator's own statistics.
    """
    vocabulary = Vocabulary.of(captions)
    guo = Guo(replace(shape, features=len(space.mean_D), pos_size=len(POS)))
    words_VW = torch.randn(len(vocabulary.words), guo.config.word_size)
    return Evaluator(guo, vocabulary, words_VW, space)


def evaluator_loss(model: Evaluator, parts: Sequence[Captioned], captions: Sequence[str], batch: int) -> Loss:
    """Of an evaluator's networks and words: `euclidean_loss`, in bfloat16 with float32 weights.

    A batch comes from one part and holds every meaning once. A third as many unfinished motions (`unfinished`) are
    extra negatives. `captions`: the distinct ones, which `caption_N` counts.
    """
    word_UL, tag_UL, words_U = model.vocabulary.read(captions)
    rest_D, there = at_rest(model).cpu(), model.mean_D.device
    rows_of = [[torch.nonzero(p.meaning_N == m).flatten() for m in p.meaning_N.unique()] for p in parts]

    def loss(step: int, generator: torch.Generator) -> Tensor:
        part, meanings = parts[step % len(parts)], rows_of[step % len(parts)]
        order = torch.randperm(len(meanings), generator=generator)[:batch]
        picks = [meanings[int(m)] for m in order]
        row_B = torch.stack([p[torch.randint(len(p), (), generator=generator)] for p in picks])
        caption_B, length_B = part.caption_N[row_B], part.length_N[row_B]
        x_BFD = model.normalised(part.features_NFD[row_B].to(there), length_B.to(there)).cpu()
        extra = slice(0, len(row_B) // 3)
        half_NFD = unfinished(x_BFD[extra], length_B[extra], rest_D, generator)
        all_MFD, length_M = torch.cat([x_BFD, half_NFD]), torch.cat([length_B, length_B[extra]])
        noise_M11 = _NOISE * torch.rand(len(all_MFD), 1, 1, generator=generator)
        all_MFD = all_MFD + noise_M11 * torch.randn(all_MFD.shape, generator=generator)
        all_MFD = all_MFD * valid_mask(length_M, all_MFD.shape[1])[..., None]
        word_BL = word_UL[caption_B]
        dropped_BL = torch.rand(word_BL.shape, generator=generator) < _WORDS_DROPPED
        heard = (word_BL.masked_fill(dropped_BL, 0), tag_UL[caption_B], words_U[caption_B])
        with torch.autocast(there.type, torch.bfloat16):
            motion_MC = model.guo.encode_motion(all_MFD.to(there), length_M.to(there)).float()
            text_BC = model.encode_words(*(one.to(there) for one in heard)).float()
        same_BB = caption_B[:, None] == caption_B[None]
        return euclidean_loss(text_BC, motion_MC, same_BB.to(there))

    return loss


def settle(model: Evaluator, average: nn.Module) -> None:
    """Take the average's parameters, rounded to float16, which is what a checkpoint holds; freeze them."""
    with torch.no_grad():
        for parameter, mean in zip(model.parameters(), average.parameters(), strict=True):
            parameter.copy_(mean.half())
    model.eval().requires_grad_(False)


def train_evaluator(  # noqa: PLR0913 - what it trains, on what, and how
    parts: Sequence[Captioned],
    captions: Sequence[str],
    shape: GuoConfig,
    recipe: Recipe,
    watch: OnStep | Witness,
    *,
    fps: float,
    representation: Representation,
) -> Evaluator:
    """An evaluator of motion in HumanML3D's or KIT's layout, trained from nothing by `evaluator_loss`.

    The seed decides its first weights. Leaves an exponential moving average of the weights (`settle`).

    Args:
        parts: the motion; statistics are of all parts.
        captions: the distinct ones, which `caption_N` counts; their words are the evaluator's vocabulary.
        shape: of the networks; `features` and `pos_size` are set here.
        recipe: of the optimisation.
        watch: is told every step's loss, or has what the training goes on from as well.
        fps: frames per second of the motion.
        representation: of the motion.

    Raises:
        ValueError: motion of another layout.
    """
    mean_D, std_D = evaluator_statistics(parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = new_evaluator(captions, shape, MotionSpace(mean_D, std_D, fps, representation))
        loss = evaluator_loss(model, parts, captions, recipe.batch)
        settle(model, fit(model, loss, recipe, watch, decay=recipe.usual_decay))
    return model


def at_rest(model: Evaluator) -> Tensor:
    """A normalised frame [D] without motion, on its feet: what a body that stops goes on with."""
    rest_D = torch.zeros_like(model.mean_D)
    rest_D[layout_of(len(rest_D)).feet] = 1.0
    return (rest_D - model.mean_D) / model.std_D


def unfinished(x_BFD: Tensor, length_B: Tensor, rest_D: Tensor, generator: torch.Generator) -> Tensor:
    """Motions that begin what they should do and do not finish it, each within its own length.

    Even rows freeze between a fifth and two thirds of the way (velocities and contacts at rest, `rest_D`, normalised
    as the features are); odd ones keep a third to two thirds of their amplitude around their first frame.
    """
    batch, frames, width = x_BFD.shape
    share_B1 = torch.rand(batch, 1, generator=generator)
    stop_B1 = (length_B[:, None] * (0.2 + (2 / 3 - 0.2) * share_B1)).long()
    frame_BF = torch.arange(frames).expand(batch, -1)
    frozen_BFD = x_BFD.gather(1, torch.minimum(frame_BF, stop_B1)[..., None].expand_as(x_BFD))
    moving_D = torch.ones(width, dtype=torch.bool)
    moving_D[ROOT_VEL.stop : layout_of(width).vel.start] = False
    frozen_BFD = torch.where((frame_BF > stop_B1)[..., None] & moving_D, rest_D, frozen_BFD)
    weak_BFD = x_BFD[:, :1] + (1 + share_B1[..., None]) / 3 * (x_BFD - x_BFD[:, :1])
    made_BFD = torch.where((torch.arange(batch) % 2 == 0)[:, None, None], frozen_BFD, weak_BFD)
    return made_BFD * valid_mask(length_B, frames)[..., None]
