"""Pretraining of the three small networks: text encoder, retrieval model, denoiser. Plain loops over tensors.

They take data, not data sets, so the embedded world and a user's own motion train alike.
Legend: N clips, B batch, F frames, D features, L tokens, C channels, U distinct captions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rl_motion.diffusion.schedule import alphas_cumprod
from rl_motion.models.denoiser import MotionDenoiser
from rl_motion.models.fitting import Loss, OnStep, Recipe, Rows, Witness, fit
from rl_motion.models.layers import valid_mask
from rl_motion.models.losses import Negatives, info_nce
from rl_motion.models.text import silence
from rl_motion.models.tmr import TMR
from rl_motion.motion import features, kit
from rl_motion.motion.features import ROOT_VEL, FeatureLayout
from rl_motion.protocols import PredictionType
from rl_motion.types import Representation

ROOT_WEIGHT, JOINTS_WEIGHT, ROT6D_WEIGHT, VEL_WEIGHT, FEET_WEIGHT = 8.0, 2.0, 0.5, 1.0, 0.5
"""Weights in the loss of an x0 denoiser by group of features: motion is recovered from the root's velocity, whose
errors add up along the path, and the joint positions; rotations, velocities and contacts repeat them."""
PATH_WEIGHT = 0.001
"""Weight, in the loss of an x0 denoiser, of the squared error of the root's yaw and velocities summed up to each frame:
how far a body has turned and come. A quadratic form of x0 as the rest of the loss is, so its minimum is E[x0] too."""
_WEIGHED = frozenset({Representation.HUMANML3D_263, Representation.KIT_251})


@dataclass(frozen=True, slots=True)
class MotionText:
    """Normalised motion with captions: features_NFD (zero beyond length), length_N, caption_N into texts."""

    features_NFD: Rows
    length_N: Tensor
    caption_N: Tensor


def layout_of(width: int) -> FeatureLayout:
    """The layout of features of this width.

    Raises:
        ValueError: no representation of joints, rotations, velocities and contacts has it.
    """
    known = {layout.features_D: layout for layout in (features.LAYOUT, kit.LAYOUT)}
    if width not in known:
        raise ValueError(f"got {width} features; want one of {sorted(known)}; convert the motion first")
    return known[width]


def feature_statistics(features_NFD: Tensor, length_N: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and deviation [D] over valid frames, by HumanML3D's convention.

    The deviation is shared within a group of features.

    Raises:
        ValueError: features of neither HumanML3D nor KIT-ML.
    """
    layout = layout_of(features_NFD.shape[-1])
    valid = features_NFD[valid_mask(length_N, features_NFD.shape[1])].double()
    mean_D, std_D = valid.mean(0), valid.std(0)
    root = (slice(0, 1), slice(1, 3), slice(3, 4))
    for group in (*root, layout.joints, layout.rot6d, layout.vel, layout.feet):
        std_D[group] = std_D[group].mean().clamp_min(1e-3)
    return mean_D.float(), std_D.float()


def x0_loss(error_BFD: Tensor, valid_BF: Tensor) -> Tensor:
    """Weighted mean square of a prediction's error over valid frames, and `PATH_WEIGHT` that of its running sum."""
    layout = layout_of(error_BFD.shape[-1])
    groups = (
        (slice(0, 4), ROOT_WEIGHT), (layout.joints, JOINTS_WEIGHT), (layout.rot6d, ROT6D_WEIGHT),
        (layout.vel, VEL_WEIGHT), (layout.feet, FEET_WEIGHT),
    )  # fmt: skip
    error_BFD = error_BFD * valid_BF[..., None]
    squared_D = error_BFD[valid_BF].pow(2).mean(0)
    weighted = torch.cat([weight * squared_D[group] for group, weight in groups])
    path_BF3 = error_BFD[..., : ROOT_VEL.stop].cumsum(1)
    return weighted.mean() + PATH_WEIGHT * path_BF3[valid_BF].pow(2).mean()


def denoising_target(prediction_type: PredictionType, x0_BFD: Tensor, noise_BFD: Tensor, alpha_B11: Tensor) -> Tensor:
    """What a network of this prediction type should say of x_t = alpha x0 + sqrt(1 - alpha^2) noise."""
    if prediction_type == "sample":
        return x0_BFD
    if prediction_type == "epsilon":
        return noise_BFD
    return alpha_B11 * noise_BFD - (1 - alpha_B11**2).sqrt() * x0_BFD


def denoising_loss(prediction_type: PredictionType, error_BFD: Tensor, valid_BF: Tensor) -> Tensor:
    """The loss of a prediction's error: `x0_loss`, or for noise and v the mean square over valid frames.

    With uniform timesteps the latter two weigh the squared error of x0 by timestep, all features alike: epsilon by the
    signal-to-noise ratio SNR = alpha^2 / sigma^2 (arXiv:2006.11239 eq. 14), so hardly where noise prevails;
    v by SNR + 1 (arXiv:2202.00512 section 4).
    """
    if prediction_type == "sample":
        return x0_loss(error_BFD, valid_BF)
    return error_BFD[valid_BF].pow(2).mean()


def refuse_untrainable(denoiser: MotionDenoiser) -> None:
    """Refuse what `denoiser_loss` cannot train.

    Raises:
        ValueError: a network that sees frames beyond the length, which hold noise when it samples and nothing here; or
            another representation, whose x0 these weights would cut into slices that mean nothing.
    """
    if denoiser.prediction_type == "sample" and denoiser.representation not in _WEIGHED:
        raise ValueError(
            f"got a network that predicts {denoiser.representation} motion; want {' or '.join(sorted(_WEIGHED))}, "
            "whose groups of features the loss weighs; let it predict noise, or give the loss weights of its own"
        )
    if not denoiser.mask_frames:
        raise ValueError("got a network that sees padded frames; want mask_frames=True; train it so from the start")


def denoiser_loss(
    denoiser: MotionDenoiser, data: MotionText, captions: Sequence[str], batch: int, dropout: float = 0.1
) -> Loss:
    """Of a denoiser's network, to predict what it says it does: uniform timesteps, text dropped for some of the rows.

    arXiv:2209.14916 eq. (2), weighted as `denoising_loss` says, in bfloat16 with float32 weights. A dropped row has the
    model's null condition. `captions`: the distinct ones, which `caption_N` counts; they are encoded once, here.
    """
    schedule, there = denoiser.schedule, denoiser.mean_D.device
    condition = denoiser.encode_text(captions)
    alpha_bar_T = torch.from_numpy(alphas_cumprod(schedule)).float()

    def loss(step: int, generator: torch.Generator) -> Tensor:
        row_B = torch.randint(len(data.length_N), (batch,), generator=generator)
        x0_BFD, length_B = data.features_NFD[row_B], data.length_N[row_B]
        t_B = torch.randint(schedule.timesteps, (batch,), generator=generator)
        kept_B = torch.rand(batch, generator=generator) > dropout
        noise_BFD = torch.randn(x0_BFD.shape, generator=generator)
        signal_B11 = alpha_bar_T[t_B].sqrt()[:, None, None]
        x_BFD = signal_B11 * x0_BFD + (1 - signal_B11**2).sqrt() * noise_BFD
        target_BFD = denoising_target(denoiser.prediction_type, x0_BFD, noise_BFD, signal_B11).to(there)
        valid_BF = valid_mask(length_B, x0_BFD.shape[1])
        text = denoiser.condition_rows(condition, data.caption_N[row_B].to(there), kept_B.to(there))
        x_BFD = (x_BFD * valid_BF[..., None]).to(there)
        with torch.autocast(there.type, torch.bfloat16):
            predicted_BFD = denoiser.predict(x_BFD, t_B.to(there), text, length_B.to(there)).float()
        return denoising_loss(denoiser.prediction_type, predicted_BFD - target_BFD, valid_BF.to(there))

    return loss


def train_denoiser(
    denoiser: MotionDenoiser, data: MotionText, captions: Sequence[str], recipe: Recipe, watch: OnStep | Witness
) -> None:
    """Train a denoiser's network by `denoiser_loss`, text dropped for 10 % of the rows.

    Leaves the exponential moving average (0.999) of the weights in the network.

    Raises:
        ValueError: as `refuse_untrainable`.
    """
    refuse_untrainable(denoiser)
    loss = denoiser_loss(denoiser, data, captions, recipe.batch)
    average = fit(denoiser.network, loss, recipe, watch, decay=0.999)
    denoiser.network.load_state_dict(average.state_dict())


def half_done(features_BFD: Tensor, rest_D: Tensor, generator: torch.Generator) -> Tensor:
    """Motions that begin what they should do and do not finish it, as negatives for a retrieval model.

    Half of the rows freeze somewhere in the middle (velocities at rest, `rest_D` normalised); the others keep a
    third to two thirds of their amplitude around their first frame.
    """
    batch, frames, _ = features_BFD.shape
    stop_B1 = torch.randint(frames // 5, 2 * frames // 3, (batch, 1), generator=generator)
    index_BF = torch.minimum(torch.arange(frames)[None], stop_B1)
    frozen_BFD = features_BFD.gather(1, index_BF[..., None].expand_as(features_BFD)).clone()
    still_BF = torch.arange(frames)[None] > stop_B1
    layout = layout_of(features_BFD.shape[-1])
    for part in (slice(0, 3), slice(layout.vel.start, layout.feet.stop)):
        frozen_BFD[..., part] = torch.where(still_BF[..., None], rest_D[part], frozen_BFD[..., part])
    share_B11 = 0.33 + 0.33 * torch.rand(batch, 1, 1, generator=generator)
    weak_BFD = features_BFD[:, :1] + share_B11 * (features_BFD - features_BFD[:, :1])
    freeze_B11 = (torch.arange(batch) % 2 == 0)[:, None, None]
    return torch.where(freeze_B11, frozen_BFD, weak_BFD)


@dataclass(frozen=True, slots=True)
class TokenTexts:
    """Token features of the distinct captions: tokens_ULC and length_U."""

    tokens_ULC: Tensor
    length_U: Tensor


Unfinished = Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]
"""(x_BFD, length_B, rest_D, generator) -> motions [B, F, D] that do not finish what they begin."""


def retrieval_loss(  # noqa: PLR0913 - what it trains, on what, and how
    model: TMR,
    data: Sequence[tuple[MotionText, Tensor]],
    texts: TokenTexts,
    rest_D: Tensor,
    batch: int,
    *,
    unfinished: Unfinished | None = None,
    same_captions: bool = False,
) -> Loss:
    """Of both encoders: InfoNCE (arXiv:2305.00976 eq. 2), the mean as embedding.

    A third as many half-done motions are extra negatives. Small feature noise makes the score smooth around real
    motion.

    Args:
        model: that is trained.
        data: parts, each with the combination [N] of its clips; a batch comes from one part and holds every
            combination once, so that no caption of a batch fits another's motion and every contradiction is a negative.
        texts: of the captions.
        rest_D: a normalised frame of a body at rest.
        batch: most rows.
        unfinished: of motions of many lengths; None: `half_done`, of motions that are as long as their padding.
        same_captions: whether combinations may share a caption; such rows are no negatives of each other.
    """
    by_claim = [[torch.nonzero(claim_N == c).flatten() for c in claim_N.unique()] for _, claim_N in data]
    there = texts.tokens_ULC.device

    def loss(step: int, generator: torch.Generator) -> Tensor:
        part = step % len(data)
        order = torch.randperm(len(by_claim[part]), generator=generator)[:batch]
        picks = [by_claim[part][int(c)] for c in order]
        row_B = torch.stack([p[torch.randint(len(p), (), generator=generator)] for p in picks])
        motion = data[part][0]
        x_BFD, length_B, caption_B = (
            motion.features_NFD[row_B],
            motion.length_N[row_B],
            motion.caption_N[row_B],
        )
        extra = slice(0, len(row_B) // 3)
        if unfinished is None:
            negative_NFD = half_done(x_BFD[extra], rest_D, generator)
        else:
            negative_NFD = unfinished(x_BFD[extra], length_B[extra], rest_D, generator)
        noise = 0.15 * torch.rand(len(x_BFD) + len(negative_NFD), 1, 1, generator=generator)
        all_BFD = torch.cat([x_BFD, negative_NFD])
        all_BFD = (all_BFD + noise * torch.randn(all_BFD.shape, generator=generator)).to(there)
        all_B, caption_B = torch.cat([length_B, length_B[extra]]).to(there), caption_B.to(there)
        with torch.autocast(there.type, torch.bfloat16):
            motion_BC = model.encode_motion(all_BFD, all_B).mu_BC.float()
            text_BC = model.encode_text(texts.tokens_ULC[caption_B], texts.length_U[caption_B]).mu_BC.float()
        same_BB = (caption_B[:, None] == caption_B[None]).float() if same_captions else None
        negatives = Negatives(_apart(same_BB), motion_NC=motion_BC[len(x_BFD) :])
        return info_nce(text_BC, motion_BC[: len(x_BFD)], temperature=0.07, negatives=negatives)

    return loss


def _apart(same_BB: Tensor | None) -> Tensor | None:
    """Unit sentence embeddings [B, C], alike where captions are the same and else at right angles."""
    return None if same_BB is None else functional.normalize(same_BB, dim=-1)


def train_tmr(  # noqa: PLR0913, PLR0917 - what it trains, on what, and how
    model: TMR,
    data: Sequence[tuple[MotionText, Tensor]],
    texts: TokenTexts,
    rest_D: Tensor,
    recipe: Recipe,
    watch: OnStep | Witness,
) -> None:
    """Train both encoders by `retrieval_loss`; the last weights stay."""
    fit(model, retrieval_loss(model, data, texts, rest_D, recipe.batch), recipe, watch)


def train_text_encoder(
    directory: str | Path, wordings: Sequence[Sequence[str]], recipe: Recipe, watch: OnStep | Witness
) -> None:
    """Train the encoder in `directory` in place: masked words, and the words of a paraphrase.

    `wordings`: the captions of each combination. The pooled embedding of one wording predicts, linearly, which words
    another wording of the same combination has; so what a caption says adds up in the embedding, word by word of
    meaning, and unseen combinations land where their parts point. A purely contrastive loss puts every combination
    anywhere, and denoisers then do not compose (docs/log.md). Masked words: arXiv:1810.04805 section 3.1.
    """
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(recipe.seed)
    with silence():
        model: Any = AutoModel.from_pretrained(directory, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    width, vocabulary = model.config.hidden_size, model.config.vocab_size
    masked_head, words_head = nn.Linear(width, vocabulary), nn.Linear(width, vocabulary)
    both = nn.ModuleList([model, masked_head, words_head])
    special = torch.tensor(tokenizer.all_special_ids)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(wordings), (recipe.batch,), generator=generator).tolist()
        pairs = [
            [wordings[r][int(i)] for i in torch.randint(len(wordings[r]), (2,), generator=generator)] for r in rows
        ]
        batch = tokenizer([a for a, _ in pairs], return_tensors="pt", padding=True)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hide = (torch.rand(ids.shape, generator=generator) < 0.15) & ~torch.isin(ids, special)
        hidden = model(input_ids=ids.masked_fill(hide, tokenizer.mask_token_id), attention_mask=mask).last_hidden_state
        # The mean over no word is NaN, and a small batch may hide none.
        masked = nn.functional.cross_entropy(masked_head(hidden[hide]), ids[hide]) if hide.any() else torch.zeros(())
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        other = tokenizer([b for _, b in pairs], return_tensors="pt", padding=True)["input_ids"]
        target = torch.zeros(recipe.batch, vocabulary).scatter_(1, other, 1.0)
        target[:, special] = 0.0
        words = nn.functional.cross_entropy(words_head(pooled), target / target.sum(1, keepdim=True))
        total: Tensor = masked + words
        return total

    fit(both, loss, recipe, watch)
    with silence():
        model.save_pretrained(directory)
