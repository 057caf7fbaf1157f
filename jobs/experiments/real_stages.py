"""The stages of real_motion.py that train something: each a folder, made once for what it was made of.

Legend: N rows (a window with one of its captions), F frames, D features.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from rl_motion.config import Job, ScheduleConfig, UserError
from rl_motion.data.folder import Clip, cut_windows, split_prompts, wording
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.guo import GuoConfig
from rl_motion.models.mdm import MDM, MDMConfig, MDMDenoiser
from rl_motion.models.pretraining import (
    MotionText,
    OnStep,
    Recipe,
    TokenTexts,
    feature_statistics,
    train_denoiser,
    train_text_encoder,
    train_tmr,
)
from rl_motion.models.pretraining_evaluator import Captioned, train_evaluator
from rl_motion.models.text import TextEncoder, TinyBertConfig, create_tiny_bert
from rl_motion.models.tmr import TMR, TMRConfig
from rl_motion.models.zoo import CheckpointConfig, network_shape, save_checkpoint, save_evaluator
from rl_motion.motion.features import FEET, FPS
from rl_motion.tracking.files import write_atomic
from rl_motion.types import Prompt, Representation

TEXT, TMR_NAME, EVALUATOR, BASE, UPPER = "text", "tmr", "evaluator", "base", "upper"
TRAIN = ("source/train", "target/train")
MAX_TOKENS = 96
"""Of a caption; longer ones train nothing and are not examined. Words that no train caption has are spelt out."""
SCHEDULE = ScheduleConfig(betas="linear", timesteps=1000)
"""As of the packaged denoisers (jobs/build_zoo.py says why)."""
SEEDS = {TEXT: 0, TMR_NAME: 0, EVALUATOR: 11, BASE: 1, UPPER: 1}
"""Of every network: the evaluator shares none with the reward; base and upper bound differ in their data alone."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is trained and examined. frames: the longest window; motions are at 20 frames per second."""

    frames: int = 60
    text_steps: int = 1000
    tmr_steps: int = 1000
    evaluator_steps: int = 1200
    denoiser_steps: int = 3500
    samples: int = 10
    job: tuple[str, ...] = ()
    """Settings of the post-training job that differ from the file's."""


SMOKE = Sizes(
    frames=24, text_steps=2, tmr_steps=2, evaluator_steps=2, denoiser_steps=2, samples=2,
    job=("train.iterations=1", "train.prompts_per_iteration=4", "train.prompts_per_unit=2", "policy.steps=3"),
)  # fmt: skip
"""Whether everything fits together, in seconds; the numbers mean nothing."""


@dataclass(frozen=True)
class World:
    """What the stages work on: the clips of every split, and the hash of where they come from."""

    splits: Mapping[str, tuple[Clip, ...]]
    sha256: str
    sizes: Sizes

    def captions(self, *names: str) -> list[list[str]]:
        """What is said of each clip of these splits, and of its mirror image."""
        said = [texts for name in names for clip in self.splits[name] for texts in (clip.captions, clip.mirrored)]
        return [list(texts) for texts in said if texts]


def stage(folder: Path, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> str:
    """What `make` leaves in a folder: found where it was made of the same inputs, made anew where not.

    Args:
        folder: where it goes, whole or not at all; its note lies beside it.
        inputs: all that it depends on, as JSON can say it.
        make: fills an empty folder.

    Returns:
        The hash of the inputs, for stages that build on this one.
    """
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    note = folder.with_name(f"{folder.name}.json")
    if folder.is_dir() and note.is_file() and json.loads(note.read_text(encoding="utf-8"))["key"] == key:
        typer.echo(f"{folder.name}: kept")
        return key
    half, started = folder.with_name(f".{folder.name}.partial"), time.process_time()
    note.unlink(missing_ok=True)
    for old in (half, folder):
        shutil.rmtree(old, ignore_errors=True)
    half.mkdir(parents=True)
    make(half)
    half.rename(folder)
    seconds = round(time.process_time() - started, 1)
    write_atomic(note, (json.dumps({"key": key, "core_seconds": seconds, "inputs": inputs}, indent=1) + "\n").encode())
    typer.echo(f"{folder.name}: made in {seconds:.0f} core-seconds")
    return key


def core_seconds(folders: Sequence[Path]) -> dict[str, float]:
    """What each stage took when it was made, by folder and name."""
    notes = {f"{folder.parent.name}/{folder.name}": folder.with_name(f"{folder.name}.json") for folder in folders}
    return {
        name: json.loads(note.read_text(encoding="utf-8"))["core_seconds"]
        for name, note in notes.items()
        if note.is_file()
    }


def refuse_leaks(training: Sequence[str], held_out: Sequence[Prompt]) -> None:
    """Nothing that is examined may be worded as what something was trained on.

    Raises:
        UserError: names the first such caption.
    """
    read = {wording(text) for text in training}
    for prompt in held_out:
        if wording(prompt.text) in read:
            raise UserError(
                f"got the held-out caption {prompt.text!r} in training; want none there; look at the splits"
            )


def make_text(world: World, steps: int, folder: Path) -> None:
    """The text encoder: masked words and paraphrases of the train captions, whose words are its vocabulary."""
    wordings = world.captions(*TRAIN)
    create_tiny_bert([text for texts in wordings for text in texts], folder, TinyBertConfig(max_tokens=MAX_TOKENS))
    whole = set(read_whole(TextEncoder(folder), [text for texts in wordings for text in texts]))
    kept = [[text for text in texts if text in whole] for texts in wordings]
    recipe = Recipe(steps=steps, seed=SEEDS[TEXT])
    train_text_encoder(folder, [texts for texts in kept if texts], recipe, _report(TEXT, steps))


def read_whole(encoder: TextEncoder, texts: Sequence[str]) -> list[str]:
    """The distinct texts that an encoder reads whole."""
    kept = []
    for text in dict.fromkeys(texts):
        try:
            encoder.pooled([text])
        except ValueError:
            continue
        kept.append(text)
    return kept


class Rows:
    """Windows of some splits, once for every caption that the encoder reads whole; un-normalised.

    Half a window apart and mirrored too, as there is little motion.
    """

    def __init__(self, world: World, encoder: TextEncoder, *names: str) -> None:
        """Cut them."""
        clips = [clip for name in names for clip in world.splits[name]]
        windows = cut_windows(clips, world.sizes.frames, world.sizes.frames // 2, mirrored=True)
        self.captions = read_whole(encoder, [text for texts in windows.captions for text in texts])
        number = {text: index for index, text in enumerate(self.captions)}
        pairs = [(n, number[t]) for n, texts in enumerate(windows.captions) for t in texts if t in number]
        row_N = torch.tensor([n for n, _ in pairs])
        self.features_NFD = torch.from_numpy(windows.features_NFD)[row_N]
        self.length_N = torch.from_numpy(windows.length_N)[row_N]
        self.caption_N = torch.tensor([caption for _, caption in pairs])
        # Clips that the data base labels alike show the same: none of them may be a negative of another's caption.
        meanings = [clip.label or clip.name for clip in clips]
        known = {meaning: index for index, meaning in enumerate(dict.fromkeys(meanings))}
        self.meaning_N = torch.tensor([known[meanings[int(windows.clip_N[n])]] for n, _ in pairs])

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and deviation [D]."""
        return feature_statistics(self.features_NFD, self.length_N)

    def normalised(self, mean_D: Tensor, std_D: Tensor) -> MotionText:
        """By these statistics, zero beyond the length."""
        valid_NF1 = (torch.arange(self.features_NFD.shape[1])[None] < self.length_N[:, None])[..., None]
        features_NFD = (self.features_NFD - mean_D).div_(std_D).mul_(valid_NF1)
        return MotionText(features_NFD, self.length_N, self.caption_N)


def make_tmr(world: World, zoo: Path, folder: Path) -> None:
    """The reward: TMR on the train motion of both domains (who owns the target's shares the model, not the data)."""
    encoder, steps, seed = TextEncoder(zoo / TEXT), world.sizes.tmr_steps, SEEDS[TMR_NAME]
    rows = Rows(world, encoder, *TRAIN)
    mean_D, std_D = rows.statistics()
    torch.manual_seed(seed)
    model = TMR(TMRConfig(
        text_dim=encoder.token_dim, latent_dim=96, ff_size=192, num_layers=3, num_heads=4, dropout=0.1,
        max_len=2 * MAX_TOKENS,
    ))  # fmt: skip
    rest_D = -mean_D / std_D
    rest_D[FEET] += 1 / std_D[FEET]
    train_tmr(
        model, [(rows.normalised(mean_D, std_D), rows.meaning_N)], TokenTexts(*encoder.tokens(rows.captions)), rest_D,
        Recipe(steps=steps, learning_rate=7e-4, seed=seed), _report(TMR_NAME, steps),
    )  # fmt: skip
    config = CheckpointConfig(kind="tmr", network=network_shape(model), text_encoder=TEXT)
    save_checkpoint(folder, model, config, MotionSpace(mean_D, std_D))


def make_evaluator(world: World, zoo: Path, folder: Path) -> None:
    """The judge, which is never a reward: Guo et al.'s networks on the same data, with words and seeds of its own."""
    rows, sizes = Rows(world, TextEncoder(zoo / TEXT), *TRAIN), world.sizes
    part = Captioned(rows.features_NFD, rows.length_N, rows.caption_N, rows.meaning_N)
    shape = GuoConfig(
        movement_latent=96, motion_hidden=96, text_hidden=96, coembedding=64, word_size=64, max_frames=sizes.frames
    )
    recipe = Recipe(steps=sizes.evaluator_steps, seed=SEEDS[EVALUATOR])
    made = train_evaluator(
        [part], rows.captions, shape, recipe, _report(EVALUATOR, recipe.steps), fps=FPS,
        representation=Representation.HUMANML3D_263,
    )  # fmt: skip
    save_evaluator(folder, made)


def make_denoiser(world: World, zoo: Path, names: Sequence[str], folder: Path) -> None:
    """An MDM on the motion of some splits; the upper bound sees the target's too."""
    encoder, steps, seed = TextEncoder(zoo / TEXT), world.sizes.denoiser_steps, SEEDS[BASE]
    rows = Rows(world, encoder, *names)
    mean_D, std_D = rows.statistics()
    torch.manual_seed(seed)
    network = MDM(MDMConfig(
        latent_dim=96, ff_size=256, num_layers=4, num_heads=4, text_dim=encoder.pooled_dim, mask_frames=True,
        pos_embed_max_len=SCHEDULE.timesteps, dropout=0.0,
    ))  # fmt: skip
    space = MotionSpace(mean_D, std_D)
    model = MDMDenoiser(network, SCHEDULE, space=space, text_encoder=encoder)
    recipe = Recipe(steps=steps, seed=seed)
    train_denoiser(model, rows.normalised(mean_D, std_D), rows.captions, recipe, _report("mdm", steps))
    config = CheckpointConfig(kind="mdm", network=network_shape(network), text_encoder=TEXT, schedule=SCHEDULE)
    save_checkpoint(folder, network, config, space)


def make_prompts(world: World, zoo: Path, folder: Path) -> None:
    """The captions of both train splits as files of prompts: all that post-training reads."""
    encoder = TextEncoder(zoo / TEXT)
    for name in TRAIN:
        prompts = split_prompts(world.splits, name, world.sizes.frames)
        whole = set(read_whole(encoder, [prompt.text for prompt in prompts]))
        lines = [f"{prompt.text}#{prompt.length}\n" for prompt in prompts if prompt.text in whole]
        write_atomic(folder / f"{name.replace('/', '-')}.txt", "".join(lines).encode())


def make_adapter(job: Job, held_out: Sequence[Prompt], folder: Path) -> None:
    """Post-train: the adapter, the job and what every iteration measured."""
    from rl_motion.config.load import dump_job
    from rl_motion.runtime.build import Workshop, build_pool
    from rl_motion.runtime.local import LocalBackend
    from rl_motion.runtime.loop import State, train

    pool, backend = build_pool(job), LocalBackend(job, Workshop())
    refuse_leaks([prompt.text for prompt in pool.prompts], held_out)
    history: list[dict[str, float]] = []

    def record(iteration: int, _: State, metrics: dict[str, float]) -> None:
        history.append({"iteration": iteration, **metrics})
        if iteration % 10 == 0:
            typer.echo(f"{job.name} seed {job.train.seed}: iteration {iteration} reward {metrics['reward/total']:.3f}")

    last = train(job, pool, backend, State(backend.start()), record).snapshot
    for name, content in last.files.items():
        write_atomic(folder / "adapter" / name, content)
    write_atomic(folder / "job.yaml", dump_job(job).encode())
    write_atomic(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history).encode())


def described(world: World, **more: Any) -> dict[str, Any]:
    """What every stage depends on, this file included, which has the networks' shapes; and what only one does."""
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    splits = {name: [clip.name for clip in clips] for name, clips in world.splits.items()}
    return {"code": code, "data": world.sha256, "splits": splits, **more}


def sizes_of(world: World, *names: str) -> dict[str, Any]:
    """Some of the sizes, by name."""
    return {name: asdict(world.sizes)[name] for name in ("frames", *names)}


def _report(name: str, steps: int) -> OnStep:
    mean = [0.0]

    def on_step(step: int, loss: float) -> None:
        mean[0] = loss if step == 0 else 0.98 * mean[0] + 0.02 * loss
        if step % 500 == 0 or step == steps - 1:
            typer.echo(f"{name} {step + 1}/{steps} loss {mean[0]:.4f}")

    return on_step
