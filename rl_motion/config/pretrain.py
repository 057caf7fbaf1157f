"""The job of `rl-motion pretrain`: which network, on which data set, how long. Every default has its only home here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rl_motion.config.schema import (
    Many,
    Million,
    NonNegative,
    PositiveFloat,
    ScheduleConfig,
    Section,
    Seed,
    TrackingConfig,
)

Kind = Literal["denoiser", "retrieval", "evaluator"]
NETWORKS: dict[Kind, tuple[str, ...]] = {
    "denoiser": ("mdm", "mdm_smpl", "t2m_unet"),
    "retrieval": ("tmr",),
    "evaluator": ("guo",),
}
"""Kinds of networks by what they are for; the first is the default."""
TINY = "tiny"
"""The text encoder that is made of the captions."""


class PretrainDataConfig(Section):
    """A data set that `rl-motion data import` made. Its `train` trains, `val` is looked at, nothing else is read."""

    directory: str
    """Its folder."""
    frames: Annotated[int, Field(ge=8, le=2000)] = 196
    """The longest motion: longer ones are cut into windows half of that apart."""


class NetworkConfig(Section):
    """Which network, and its shape where it is not the official one."""

    kind: Literal["mdm", "mdm_smpl", "t2m_unet", "tmr", "guo"] | None = None
    """None: mdm of a denoiser, tmr of a retrieval model, guo of an evaluator."""
    shape: dict[str, Any] = Field(default_factory=dict)
    """By name, as in the checkpoint's config.json (`latent_dim: 96`); what follows from the data is not set here."""


class TextConfig(Section):
    """What reads captions for the network."""

    encoder: str = TINY
    """A Hugging Face directory with a text encoder, which stays as it is, or `tiny`: a small BERT made of the captions
    of `train` and trained on them first."""
    steps: Million = 3000
    """Of a `tiny` one's training."""


class DiffusionConfig(Section):
    """Of a denoiser."""

    schedule: ScheduleConfig = ScheduleConfig(betas="linear", timesteps=1000)
    """The packaged denoisers' (jobs/build_zoo.py says why); MDM's own is cosine with 50 steps."""
    prediction_type: Literal["sample", "epsilon", "v_prediction"] = "sample"
    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of rows whose text is dropped, for guidance."""


class FitConfig(Section):
    """AdamW with linear warm-up and cosine decay to a tenth, and an average of the weights, which is what is kept."""

    steps: Million
    batch: Many = 64
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegative = 0.01
    warmup: Million = 100
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of the average. None: over the last thousand steps, and of a short training over a quarter of it."""
    seed: Seed = 0
    log_every: Million = 100
    """Steps of a row of metrics.jsonl, which has their mean loss."""
    validate_every: Million = 1000
    """Rows of so many steps have the loss on `val` too, by the average."""

    @model_validator(mode="after")
    def _is_validated_at_rows(self) -> FitConfig:
        if self.validate_every % self.log_every:
            raise ValueError(
                f"got log_every={self.log_every} and validate_every={self.validate_every}; want a multiple, as rows "
                "have the loss on val; change one of them"
            )
        return self


class PretrainRuntimeConfig(Section):
    """Where the work runs."""

    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    """Of torch; they change rounding, and so a run keeps them."""
    save_every_s: NonNegative = 60.0
    """The state is saved at the first row of metrics.jsonl after so many seconds: a kill loses no more than that."""


class PretrainJob(Section):
    """A reproducible pretraining."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    kind: Kind
    data: PretrainDataConfig
    network: NetworkConfig = NetworkConfig()
    text: TextConfig = TextConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    train: FitConfig
    runtime: PretrainRuntimeConfig = PretrainRuntimeConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def network_kind(self) -> str:
        """Of the network, as checkpoints name it."""
        return self.network.kind or NETWORKS[self.kind][0]

    @property
    def text_steps(self) -> int:
        """Steps of the text encoder's training before the network's."""
        return self.text.steps if self.kind != "evaluator" and self.text.encoder == TINY else 0

    @model_validator(mode="after")
    def _parts_fit(self) -> PretrainJob:
        if self.network_kind not in NETWORKS[self.kind]:
            raise ValueError(
                f"got network.kind={self.network_kind} with kind={self.kind}; want {' or '.join(NETWORKS[self.kind])}; "
                "change one of them"
            )
        if self.kind != "denoiser" and self.diffusion != DiffusionConfig():
            raise ValueError(
                f"got the section diffusion with kind={self.kind}, which diffuses nothing; want it with denoiser; "
                "leave it out"
            )
        if self.kind == "evaluator" and self.text != TextConfig():
            raise ValueError(
                "got the section text with kind=evaluator, which learns words of its own; want it with denoiser or "
                "retrieval; leave it out"
            )
        if self.text.encoder != TINY and self.text.steps != TextConfig().steps:
            raise ValueError(
                f"got text.steps={self.text.steps} with text.encoder={self.text.encoder[:60]!r}, which is not trained; "
                "want steps with tiny alone; leave them out"
            )
        return self


__all__ = ["NETWORKS", "TINY", "Kind", "PretrainJob"]
