"""Rebuild the small weights in rl_motion/zoo: text encoder, TMR, evaluator, base denoisers, supervised upper bound.

    python jobs/build_zoo.py all                     # everything; then jobs/zoo_cards.py
    python jobs/build_zoo.py denoiser --kind t2m_unet --predicts epsilon --seed 1

On one core the text encoder takes 3 minutes, TMR 7, each MDM about 20 and each U-Net about 42.

The denoisers see source/train; the upper bound also target/train; TMR sees the motion of both (the owner of the
target data shares a trained evaluator, not the data), and so does the evaluator, which is never a reward: other
motions, other networks, words of its own. Nothing sees val or test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from rl_motion.config import ScheduleConfig
from rl_motion.data import worlds
from rl_motion.data.embedded import WORDINGS, Clips, clips, make_prompt, splits
from rl_motion.data.worlds import FIRST, SECOND, World
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.guo import GuoConfig
from rl_motion.models.mdm import MDMConfig
from rl_motion.models.pretraining import (
    MotionText,
    OnStep,
    Recipe,
    TokenTexts,
    feature_statistics,
    layout_of,
    train_denoiser,
    train_text_encoder,
    train_tmr,
)
from rl_motion.models.pretraining_evaluator import Captioned, train_evaluator
from rl_motion.models.t2m_unet import T2MUnetConfig
from rl_motion.models.text import TextEncoder, TinyBertConfig, create_tiny_bert
from rl_motion.models.tmr import TMR, TMRConfig
from rl_motion.models.zoo import DENOISERS, ZOO, CheckpointConfig, network_shape, save_checkpoint, save_evaluator
from rl_motion.protocols import PredictionType

app = typer.Typer(add_completion=False, help=__doc__)
TEXT = "text-embedded"
CLIPS = 18_000
"""Motions per split in pretraining."""
SCHEDULE = ScheduleConfig(betas="linear", timesteps=1000)
"""Of the denoisers. Five of ten steps lie where the signal is below 3 % of the noise; there a body chooses which way it
turns and which hand it lifts. MDM's 50 cosine steps leave one step for that, and mixtures come out (docs/log.md)."""
SHAPES: dict[str, Callable[[TextEncoder], MDMConfig | T2MUnetConfig]] = {
    "mdm": lambda text: MDMConfig(
        latent_dim=96, ff_size=256, num_layers=4, num_heads=4, text_dim=text.pooled_dim,
        mask_frames=True, pos_embed_max_len=SCHEDULE.timesteps, dropout=0.0,
    ),
    "t2m_unet": lambda text: T2MUnetConfig(
        base_dim=64, dim_mults=(1,), time_dim=64, text_dim=text.token_dim, text_latent_dim=64, text_ff_size=128,
        num_text_layers=1, mask_frames=True, mask_tokens=True, max_frames=48, dropout=0.0,
    ),
}  # fmt: skip
"""Of the denoisers by kind, for the zoo's text encoder."""
EVALUATOR_SHAPE = GuoConfig(
    movement_latent=80, motion_hidden=64, text_hidden=48, coembedding=64, word_size=32, dropout=0.1
)
EVALUATOR_CLIPS = 12_000
"""Motions per split in an evaluator's training."""
EVALUATORS: dict[str, tuple[World, tuple[str, ...], int]] = {
    "first": (FIRST, ("source/train", "target/train"), 48),
    "second": (SECOND, ("second/train",), 32),
}
"""Worlds with the splits that their evaluators may see, and the canvas: above the longest motion, as converted motion
may exceed it by a frame."""
LEFT_OUT = ("knee", "squat")
"""Actions with a base each that never saw it: what the leave-one-out experiments begin with."""
WorldName = Literal["first", "second"]
Kind = Literal["mdm", "t2m_unet"]
Zoo = Annotated[Path, typer.Option(help="Where the weights go.")]


def _report(name: str, steps: int) -> OnStep:
    started, mean = time.time(), [0.0]

    def on_step(step: int, loss: float) -> None:
        mean[0] = loss if step == 0 else 0.98 * mean[0] + 0.02 * loss
        if step % 250 == 0 or step == steps - 1:
            typer.echo(f"{name} {step + 1}/{steps} loss {mean[0]:.4f} {time.time() - started:.0f}s")

    return on_step


def _wordings(names: Iterable[str]) -> list[list[str]]:
    return [[make_prompt(s, c, i).text for i in range(WORDINGS)] for s in names for c in splits()[s]]


@app.command()
def text(zoo: Zoo = ZOO, steps: int = 3000) -> None:
    """Text encoder: masked words of the train captions (the vocabulary is that of all captions)."""
    create_tiny_bert([w for group in _wordings(splits()) for w in group], zoo / TEXT, TinyBertConfig())
    recipe = Recipe(steps=steps, batch=64)
    train_text_encoder(zoo / TEXT, _wordings(["source/train", "target/train"]), recipe, _report("text", steps))


class _Data:
    """Captioned motion of some splits as tensors, normalised by the first split's statistics."""

    def __init__(self, zoo: Path, made: Sequence[Clips]) -> None:
        first = made[0]
        self.mean_D, self.std_D = feature_statistics(
            torch.from_numpy(first.features_NFD), torch.from_numpy(first.length_N)
        )
        self.captions = sorted({c for m in made for c in m.captions})
        self.encoder = TextEncoder(zoo / TEXT)
        index = {c: i for i, c in enumerate(self.captions)}
        self.parts: list[tuple[MotionText, torch.Tensor]] = []
        for part in made:
            features = (torch.from_numpy(part.features_NFD) - self.mean_D) / self.std_D
            length = torch.from_numpy(part.length_N)
            features *= (torch.arange(features.shape[1])[None] < length[:, None])[..., None]
            keys = sorted({c.key for c in part.claims})
            claim = torch.tensor([keys.index(c.key) for c in part.claims])
            caption = torch.tensor([index[c] for c in part.captions])
            self.parts.append((MotionText(features, length, caption), claim))

    def space(self, world: World) -> MotionSpace:
        """What a network that is trained on it reads."""
        return MotionSpace(self.mean_D, self.std_D, world.fps, world.representation)

    def joined(self) -> MotionText:
        """All parts as one."""
        parts = [p for p, _ in self.parts]
        return MotionText(
            torch.cat([p.features_NFD for p in parts]),
            torch.cat([p.length_N for p in parts]),
            torch.cat([p.caption_N for p in parts]),
        )


@app.command()
def tmr(zoo: Zoo = ZOO, world: WorldName = "first", steps: int = 5000, seed: int = 0) -> None:
    """The reward: TMR on the motion and captions of a world's train splits."""
    given, names, _ = EVALUATORS[world]
    data = _Data(zoo, [worlds.clips(name, CLIPS, 100 + seed) for name in names])
    torch.manual_seed(seed)
    layout = layout_of(len(data.mean_D))
    shape = TMRConfig(
        features=layout.features_D, text_dim=data.encoder.token_dim, latent_dim=96, ff_size=192, num_layers=3,
        num_heads=4, dropout=0.0, max_len=128, decoder=False,
    )  # fmt: skip
    model = TMR(shape)
    rest_D = -data.mean_D / data.std_D
    rest_D[layout.feet] += 1 / data.std_D[layout.feet]  # a body at rest stands on its feet
    recipe = Recipe(steps=steps, learning_rate=7e-4, seed=seed)
    texts = TokenTexts(*data.encoder.tokens(data.captions))
    train_tmr(model, data.parts, texts, rest_D, recipe, _report("tmr", steps))
    config = CheckpointConfig(
        kind="tmr", network=network_shape(model), text_encoder=TEXT, fps=given.fps, representation=given.representation
    )
    name = {"first": "tmr-embedded", "second": "tmr-second"}[world]
    save_checkpoint(zoo / name, model, config, data.space(given), half=world == "second")


def _captioned(made: Sequence[Clips]) -> tuple[list[Captioned], list[str]]:
    """Clips of some splits for an evaluator, and their distinct captions."""
    captions = sorted({c for part in made for c in part.captions})
    index = {c: i for i, c in enumerate(captions)}
    parts = []
    for part in made:
        meanings = {c.key: i for i, c in enumerate(dict.fromkeys(part.claims))}
        parts.append(
            Captioned(
                torch.from_numpy(part.features_NFD),
                torch.from_numpy(part.length_N),
                torch.tensor([index[c] for c in part.captions]),
                torch.tensor([meanings[c.key] for c in part.claims]),
            )
        )
    return parts, captions


@app.command()
def evaluator(zoo: Zoo = ZOO, world: WorldName = "first", steps: int = 4000, seed: int = 900) -> None:
    """The evaluator of a world, on motion and captions of its train splits that nothing else was trained on."""
    given, names, canvas = EVALUATORS[world]
    parts, captions = _captioned([worlds.clips(name, EVALUATOR_CLIPS, seed) for name in names])
    recipe = Recipe(steps=steps, learning_rate=2e-3, seed=seed)
    model = train_evaluator(
        parts, captions, replace(EVALUATOR_SHAPE, max_frames=canvas), recipe, _report(given.evaluator, steps),
        fps=given.fps, representation=given.representation,
    )  # fmt: skip
    save_evaluator(zoo / given.evaluator, model)


@app.command()
def denoiser(  # noqa: PLR0913, PLR0917 - the options of a command
    zoo: Zoo = ZOO,
    kind: Kind = "mdm",
    name: Annotated[str, typer.Option(help="Of the checkpoint; default: its kind, 'embedded', what it predicts.")] = "",
    seed: int = 1,
    steps: int = 20000,
    predicts: PredictionType = "sample",
    upper_bound: bool = False,
    world: WorldName = "first",
    without: Annotated[str, typer.Option(help="An action of source/train that is left out.")] = "",
) -> None:
    """A base denoiser on source/train or second/train; `--upper-bound`: on target/train too."""
    if world == "second":
        given, made = SECOND, [worlds.clips("second/train", CLIPS, 200 + seed)]
    else:
        names = ["source/train", "target/train"] if upper_bound else ["source/train"]
        given, made = FIRST, [clips(name, CLIPS, 200 + seed, named_sides=0.5, without=without) for name in names]
    data = _Data(zoo, made)
    torch.manual_seed(seed)
    network_class, _, denoiser_class = DENOISERS[kind]
    space = data.space(given)
    shape = replace(SHAPES[kind](data.encoder), features=len(data.mean_D))
    model = denoiser_class(
        network_class(shape), SCHEDULE, space=space, text_encoder=data.encoder, prediction_type=predicts
    )
    name = name or _default_name(kind, predicts)
    train_denoiser(model, data.joined(), data.captions, Recipe(steps=steps, seed=seed), _report(name, steps))
    config = CheckpointConfig(
        kind=kind, network=network_shape(model.network), text_encoder=TEXT, schedule=SCHEDULE,
        prediction_type=predicts, fps=given.fps, representation=given.representation,
    )  # fmt: skip
    save_checkpoint(zoo / name, model.network, config, space, half=bool(without) or world == "second")


def _default_name(kind: str, predicts: PredictionType) -> str:
    return "-".join([kind, "embedded", *([] if predicts == "sample" else [predicts])]).replace("_", "-")


@app.command(name="all")
def everything(zoo: Zoo = ZOO) -> None:
    """Text encoder, two TMRs, two evaluators, the bases and the upper bounds, one after the other."""
    text(zoo)
    tmr(zoo)
    tmr(zoo, world="second")
    evaluator(zoo)
    evaluator(zoo, world="second")
    denoiser(zoo)
    denoiser(zoo, name="mdm-embedded-b", seed=0)
    denoiser(zoo, name="mdm-embedded-upper", seed=0, upper_bound=True)
    denoiser(zoo, name="mdm-second", world="second")
    for action in LEFT_OUT:
        denoiser(zoo, name=f"mdm-embedded-no-{action}", without=action)
    denoiser(zoo, kind="t2m_unet")
    denoiser(zoo, kind="t2m_unet", name="t2m-unet-embedded-upper", seed=0, upper_bound=True)


if __name__ == "__main__":
    app()
