"""What is measured: three models with random weights, prompts as long as HumanML3D's motions, and the jobs on them.

- `embedded`: the packaged `mdm-embedded`, 32 motions of 40 frames at most (the model was made for these).
- `mdm`: MDM in its official shape (17.9 M parameters, frames masked), 8 motions.
- `unet`: StableMoFusion's U-Net with 128 in place of 512 channels (31.4 M parameters), on its canvas of 196 frames, 4
  motions.

The last two have random weights, their last layer too, and a text encoder in the shape of CLIP ViT-B/32's text half
(12 layers of 512 channels), random too, with a tokenizer of single letters: times depend on shapes, not on what weights
say. Lengths are quantiles of `lengths.json`, so that four prompts stand for the whole distribution. All jobs are of 10
steps in first order, without which a loop that learns from one timestep at a time has no previous prediction
(straightforward.py), and of guidance 2.5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from rl_motion.config import Job, ScheduleConfig
from rl_motion.data import embedded
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.models.t2m_unet import T2MUnet, T2MUnetConfig
from rl_motion.models.tmr import TMR, TMRConfig
from rl_motion.models.zoo import CheckpointConfig, network_shape, save_checkpoint
from rl_motion.types import Prompt, Unit

Kind = Literal["embedded", "mdm", "unet"]
Lengths = Literal["full", "real"]
Precision = Literal["float32", "bfloat16"]

STEPS = 10
GUIDANCE = 2.5
FULL = 196
TEXT, TMR_NAME = "text", "tmr"
"""Folders beside the models'."""
_CAPTIONS = (
    "a person walks forward and turns left",
    "someone raises both arms above the head",
    "a man kicks with the right leg and steps back",
    "a person sits down on a low chair",
    "a woman jumps over something twice",
    "a person waves with the left hand",
    "someone crouches and picks up a box",
    "a person walks backward in a half circle",
)
"""At most 60 letters: the tokenizer here makes a token of each, where CLIP's reads 77 tokens."""
_ROWS = {"embedded": (8, 4), "mdm": (4, 2), "unet": (2, 2)}
"""Prompts of a unit and samples of each, as the issue has it: 8 motions of MDM, 4 of the U-Net."""
_SEED = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    Attributes:
        kind: which model.
        lengths: `full`: every motion as long as the model makes; `real`: HumanML3D's distribution.
        precision: of the network, `float32` or `bfloat16`, as `policy.precision` of a job has it.
        quick: small models and few steps, for tests: the figures mean nothing.
    """

    kind: Kind
    lengths: Lengths = "full"
    precision: Precision = "float32"
    quick: bool = False

    @property
    def name(self) -> str:
        """`mdm_full_fp32`."""
        return f"{self.kind}_{self.lengths}_{'fp32' if self.precision == 'float32' else 'bf16'}"

    @property
    def unit(self) -> Unit:
        """The work of one measurement."""
        prompts, samples = (2, 2) if self.quick else _ROWS[self.kind]
        return Unit(seed=_SEED, iteration=0, index=0, prompts=self._prompts(prompts), samples_per_prompt=samples)

    def job(
        self, models: Path, algorithm: Mapping[str, Any] | None = None, train: Mapping[str, Any] | None = None
    ) -> Job:
        """The job that it measures; `models` holds what `make_models` made; the others are settings of its sections."""
        policy: dict[str, Any] = {"steps": 4 if self.quick else STEPS, "order": 1, "guidance_scale": GUIDANCE}
        if self.precision != "float32":
            policy["precision"] = self.precision
        unit, embedded = self.unit, self.kind == "embedded"
        return Job.model_validate(
            {
                "name": f"bench-{self.kind}",
                "model": {"name": "mdm-embedded" if embedded else str(models / self.kind)},
                "policy": policy,
                "rewards": [{"name": "tmr"} if embedded else {"name": "tmr", "model": str(models / TMR_NAME)}],
                "algorithm": dict(algorithm or {}),
                "train": {
                    "prompts_per_iteration": len(unit.prompts),
                    "prompts_per_unit": len(unit.prompts),
                    "samples_per_prompt": unit.samples_per_prompt,
                    "seed": _SEED,
                    **(train or {}),
                },
                "runtime": {"backend": "local", "threads": torch.get_num_threads()},
                "tracking": {"mlflow_uri": None},
            }
        )

    def _prompts(self, count: int) -> tuple[Prompt, ...]:
        if self.kind == "embedded":
            given = embedded.prompts("target/train")[:count]
            texts = [prompt.text for prompt in given]
            longest = 40
        else:
            texts, longest = [*_CAPTIONS[:count]], 24 if self.quick else FULL
        lengths = [longest] * count if self.lengths == "full" else real_lengths(count, longest)
        pairs = enumerate(zip(texts, lengths, strict=True))
        return tuple(Prompt(f"bench-{index}", text, length) for index, (text, length) in pairs)


def real_lengths(count: int, longest: int = FULL) -> list[int]:
    """Quantiles of HumanML3D's lengths, in the middle of equal shares, scaled where `longest` is not 196."""
    stored: Mapping[str, int] = json.loads(Path(__file__).with_name("lengths.json").read_text("utf-8"))["motions"]
    each = [int(frames) for frames, motions in stored.items() for _ in range(motions)]
    chosen = [each[int((index + 0.5) / count * len(each))] for index in range(count)]
    return [max(1, frames * longest // FULL) for frames in chosen]


def make_models(folder: Path, *, quick: bool = False) -> Path:
    """The models with random weights, made once; returns where they are: `folder`/quick or `folder`/whole.

    A folder appears whole: whoever is interrupted begins it again.
    """
    made = folder / ("quick" if quick else "whole")
    if not (made / "made").is_file():
        _save_text_encoder(made / TEXT, quick=quick)
        width = 32 if quick else 512
        save_random(made / "mdm", "mdm", MDM(_mdm_shape(width, quick)), ScheduleConfig(betas="cosine", timesteps=50))
        save_random(
            made / "unet",
            "t2m_unet",
            T2MUnet(_unet_shape(width, quick)),
            ScheduleConfig(betas="linear", timesteps=1000),
        )
        small: dict[str, Any] = {"latent_dim": 32, "ff_size": 64, "num_layers": 1} if quick else {}
        save_random(made / TMR_NAME, "tmr", TMR(TMRConfig(text_dim=width, decoder=False, **small)), None)
        (made / "made").touch()
    return made


def _mdm_shape(text_dim: int, quick: bool) -> MDMConfig:
    small: dict[str, Any] = {"latent_dim": 32, "ff_size": 64, "num_layers": 2, "num_heads": 2, "pos_embed_max_len": 100}
    return MDMConfig(text_dim=text_dim, mask_frames=True, **(small if quick else {}))


def _unet_shape(text_dim: int, quick: bool) -> T2MUnetConfig:
    small: dict[str, Any] = {
        "base_dim": 16, "dim_mults": (2, 2), "time_dim": 16, "text_latent_dim": 16, "text_ff_size": 32,
        "text_num_heads": 2, "num_text_layers": 1, "max_frames": 24,
    }  # fmt: skip
    return T2MUnetConfig(text_dim=text_dim, **(small if quick else {"base_dim": 128}))


def save_random(directory: Path, kind: str, network: nn.Module, schedule: ScheduleConfig | None) -> None:
    """A checkpoint of a network with random weights of which none are zero: a zero last layer has no gradient."""
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    features = network.config.features  # type: ignore[union-attr]
    space = MotionSpace(torch.zeros(features), torch.ones(features))
    # As their authors have it; 77 is all that CLIP reads.
    cut = {"mdm": 22, "t2m_unet": 77, "tmr": None}[kind]
    config = CheckpointConfig(
        kind=kind, network=network_shape(network), text_encoder=TEXT, text_cut=cut, schedule=schedule
    )
    save_checkpoint(directory, network, config, space)


def _save_text_encoder(directory: Path, *, quick: bool) -> None:
    """A text encoder in CLIP ViT-B/32's shape, its vocabulary apart, which costs no operations: 512 byte tokens."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    entries = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    shape: dict[str, Any] = {"vocab_size": len(entries), "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 1}
    if quick:
        shape |= {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 32, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        CLIPTextModelWithProjection(CLIPTextConfig(**shape)).save_pretrained(directory)
    make: Any = CLIPTokenizer
    make(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(directory)
