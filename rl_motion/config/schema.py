"""One pydantic model per job section; every default has its only home here.

Unknown keys are refused (`extra="forbid"`); values are frozen once validated.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Thousand = Annotated[int, Field(ge=1, le=1000)]
"""Of what a single motion, step or iteration is made of."""
Many = Annotated[int, Field(ge=1, le=100_000)]
"""Of what fits into memory; beyond it a number is a slip of the hand, and would end as lack of memory."""
Million = Annotated[int, Field(ge=1, le=1_000_000)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
"""Of one among several."""
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_LEAST_SIGMA = 1e-3
"""Below it a transition's noise drowns in the rounding of float32 latents, and with it the log-prob."""
Workers = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """`true` would count as 1, here and in a mapping."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        inside = value.values() if isinstance(value, dict) and get_origin(wanted) is dict else [value]
        allowed = any(kind in (wanted, *get_args(wanted)) for kind in (bool, Any))
        if any(isinstance(one, bool) for one in inside) and not allowed:
            raise ValueError(f"got {value!r}; want a number or a name, neither true nor false; change it")
        return value


class ScheduleConfig(Section):
    """The noise schedule a denoiser was trained with (part of the model, not of the job)."""

    betas: Literal["cosine", "linear"] = "cosine"
    timesteps: Many = 50


class ModelConfig(Section):
    """Which pretrained motion model to post-train: a name from the zoo or a local directory of the same form."""

    name: str = "mdm-embedded"


class AdapterConfig(Section):
    """LoRA through peft. Rank 4 and no dropout are the paper's."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 4
    alpha: PositiveFloat = 8.0
    targets: tuple[Literal["attention", "mlp", "condition"], ...] = ("attention", "mlp", "condition")


class PolicyConfig(Section):
    """SDE-DPM-Solver++ as the policy (docs/architecture.md, "The policy")."""

    steps: Thousand = 10
    """Network calls."""
    order: Literal[1, 2] = 2
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    """Of second order."""
    spacing: Literal["trailing", "linspace", "karras"] = "trailing"
    guidance_scale: NonNegative = 1.0
    last_step: Literal["frozen", "stop"] = "frozen"
    """What follows the last stochastic transition: one call with the adapter off, or nothing (the sample itself)."""
    landing: Literal["last_timestep", "sigma_min"] | float | None = None
    """Where the last stochastic transition lands: on the last timestep of the spacing, on timestep 0, or at this sigma
    (noise scale, alpha^2 + sigma^2 = 1). None: `last_timestep` if frozen, `sigma_min` if stop. `karras` ends at
    sigma_min by itself: both names mean that."""
    log_prob: Literal["mean", "sum"] = "mean"
    """Over the elements of a transition (valid frames x features)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's products, in rollout, replay and evaluation alike: bfloat16 halves their time where the
    processor has it (AVX512-BF16, AMX, GPUs), and nothing else's. Latents, log-probs and adapters stay float32."""

    @field_validator("landing", mode="before")
    @classmethod
    def _lands_between_noise_and_data(cls, value: object) -> object:
        named = value in (None, "last_timestep", "sigma_min")
        if named or (isinstance(value, (int, float)) and _LEAST_SIGMA <= value < 1):
            return value
        raise ValueError(
            f"got {value!r}; want last_timestep, sigma_min or a sigma between {_LEAST_SIGMA} and 1 (noise); change it"
        )


class PromptsConfig(Section):
    """Where prompts come from, with weights: pools that `rl-motion prompts build` made (their folders), data sets that
    `rl-motion data import` made (their folders), splits of the embedded world, or text files."""

    sources: dict[str, Weight] = {"target/train": 1.0, "source/train": 1.0}
    """Of a pool its `train` rows that nobody rejected; of a data set the captions of `train`, each as long as its
    motion; of the embedded world train splits only."""
    validation: dict[str, Weight] = {"target/val": 1.0}
    """Where `evaluation.validate_every` takes its prompts from, which share none with `sources`: of a pool its `val`
    rows that nobody rejected; of a data set the captions of `val` that are worded as none of `train`; val splits, text
    files."""
    default_length: Many = 40
    """Frames, for prompts that come without a length."""
    curriculum: Literal["uniform", "difficulty", "signal"] = "uniform"
    """Which prompts of a source an iteration draws. uniform: shuffled, all of them before any comes again. difficulty:
    the easiest first (pools only). signal: more often those whose samples differ in reward, as far as the run has seen;
    what scores alike teaches nothing, and comes less and less often, but comes (rl_motion/prompts/curricula.py)."""
    curriculum_start: Annotated[float, Field(gt=0, le=1)] = 0.25
    """`difficulty`: the share of a pool that the first iteration draws from. It grows linearly to all of it."""
    curriculum_iterations: Million = 50
    """`difficulty`: iterations until it is all of it."""

    @model_validator(mode="after")
    def _curriculum_reads_what_is_set(self) -> PromptsConfig:
        for name in ("curriculum_start", "curriculum_iterations"):
            value = getattr(self, name)
            if self.curriculum != "difficulty" and value != type(self).model_fields[name].default:
                raise ValueError(
                    f"got {name}={value} and curriculum={self.curriculum}, which does not read it; want it with "
                    "curriculum=difficulty alone; leave it out or choose difficulty"
                )
        return self


class RewardConfig(Section):
    """One term of the reward; the total is the weighted sum."""

    name: str
    """One of the package's rewards, or `FILE.py:CLASS` in the job's working directory."""
    model: str | None = None
    """Weights that `tmr` and `tmr_contrastive` read: a retrieval model of the zoo or a directory of the same form. It
    may read another representation than the model makes, if the one can be had of the other. None: `tmr-embedded`."""
    weight: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] = 1.0


class SentinelsConfig(Section):
    """When report and run warn of motion that is no longer natural."""

    bands: str | None = "first"
    """Where the sentinels of honest runs stay: packaged bands by the name of their world, or `FILE.json:WORLD` as
    `jobs/sentinels.py` writes it. They judge motion of their own frame rate. None: nothing is judged."""
    pause: bool = False
    """With `evaluation.validate_every`: end the run, to be resumed, where the validation reward has risen and sentinels
    have left their bands. False: it only warns."""


class AlgorithmConfig(Section):
    """DDPO with importance sampling and the PPO clip (arXiv:2305.13301 eq. 8; arXiv:1707.06347 eq. 7)."""

    name: str = "ddpo"
    """One of the package's algorithms (rl_motion/algorithms)."""
    clip_range: PositiveFloat = 0.1
    """On the (balanced) ratio of one transition."""
    inner_epochs: Thousand = 1
    kl_weight: NonNegative = 0.0
    """Weight of the exact KL to the reference (adapter off), balanced as the loss is."""
    kl_target: PositiveFloat | None = None
    """Adapt the weight, from `kl_weight` on, so that `policy/kl` comes to this (arXiv:1909.08593, section 2.2).
    None: it stays as it is."""
    balance: Literal["snr", "none"] = "snr"
    """snr: divide a log-ratio by how many stds its transition's mean moves per unit of what the network predicts:
    k_t = alpha_t sqrt(1 - exp(-2h)) / sigma_t of x0, sqrt(exp(2h) - 1) of the noise. Essential with x0 networks."""
    transitions: Thousand | None = None
    """Learn from this many transitions, the noisiest first; None: all. What a motion does is decided in the first few,
    and the others add noise to the gradient and cost a network call each (docs/log.md)."""
    advantages: Literal["group", "running", "leave_one_out"] = "group"
    """A prompt's samples against one another, against its last rewards (DDPO's tracker), or each against the others."""
    advantage_clip: PositiveFloat = 5.0
    advantage_floor: NonNegative = 0.01
    """Added to a prompt's reward std: keeps tiny reward differences from being blown up. Not in `leave_one_out`."""
    advantage_shrinkage: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far a prompt's reward std is shrunk towards the base's, pooled over the prompts of the first iteration:
    a floor calibrated once. Not in `leave_one_out`."""
    advantage_buffer_size: Many = 16
    """`running`: rewards remembered for each prompt."""
    advantage_min_count: Many = 16
    """`running`: with fewer remembered, the whole iteration's mean and std stand in."""

    @model_validator(mode="after")
    def _parts_fit(self) -> AlgorithmConfig:
        if self.kl_target is not None and self.kl_weight == 0.0:
            raise ValueError(
                f"got kl_target={self.kl_target} and kl_weight=0; want a weight to start from, as the controller "
                "multiplies it; set algorithm.kl_weight"
            )
        if self.advantage_min_count > self.advantage_buffer_size:
            raise ValueError(
                f"got advantage_min_count={self.advantage_min_count} and "
                f"advantage_buffer_size={self.advantage_buffer_size}; want a count that the buffer can reach; "
                "lower the one or raise the other"
            )
        if self.advantage_shrinkage > 0.0 and self.advantages == "leave_one_out":
            raise ValueError(
                f"got advantage_shrinkage={self.advantage_shrinkage} and advantages=leave_one_out, which divides by no "
                "std; want one of them; drop the shrinkage or choose group or running"
            )
        return self


class TrainConfig(Section):
    """Sizes, learning rate and seed."""

    iterations: Million = 100
    prompts_per_iteration: Many = 32
    samples_per_prompt: Annotated[int, Field(ge=2, le=1000)] = 4
    prompts_per_unit: Thousand = 8
    units_per_step: Many = 1
    """Units that an optimiser step accumulates: the mini-batch of PPO."""
    replay_rows: Million | None = None
    """Rows of network input (twice the samples, with guidance) whose graph a replay keeps at once: the calls beyond are
    made again in the backward pass, so that memory does not grow with `policy.steps`, for half as much work again. The
    least is one call of a unit. None: all at once. Changes no number."""
    learning_rate: PositiveFloat = 7e-4
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.99
    max_grad_norm: PositiveFloat = 1.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Publish and evaluate an exponential moving average of the adapter over iterations, e.g. 0.95; rollouts go on with
    the adapter itself. None: the last adapter."""
    publish: Literal["last", "best"] = "last"
    """Which adapter the run publishes and evaluates: the last, or the one with the best validation reward."""
    max_skipped_steps: Million = 10
    """An optimiser step with a reward, loss, gradient or metric that is not finite is skipped; so many in a row end the
    run. Changes no number: a resumed run may have another."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _units_are_whole(self) -> TrainConfig:
        if self.prompts_per_iteration % self.prompts_per_unit:
            raise ValueError(
                f"got prompts_per_iteration={self.prompts_per_iteration} and prompts_per_unit={self.prompts_per_unit}; "
                "want whole units; choose a prompts_per_unit that divides prompts_per_iteration"
            )
        return self


class RuntimeConfig(Section):
    """Where the work runs. Changes the speed, never the numbers (threads excepted: they change rounding)."""

    backend: Literal["local", "ray"] = "ray"
    rollout_workers: Workers = 1
    reward_workers: Workers = 1
    learner_workers: Workers = 1
    """Learners that share the units of an optimiser step: more than `train.units_per_step` are idle. On Ray; `local`
    works with one."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    """Torch threads of every worker, the same on both backends."""
    keep_commits: Million = 2
    """The last so many, and beside them the one with the best validation reward."""
    commits_uri: str | None = None
    """Send every commit to COMMITS_URI/<run> too, on any file system that PyArrow knows: s3://bucket/folder,
    gs://bucket/folder, file:///mnt/nfs/folder. Credentials come from the environment. None: RUN/commits alone."""
    max_rollout_workers: Workers | None = None
    """On Ray, let a controller choose between `rollout_workers` and this many, from what it measures; it says why."""
    max_reward_workers: Workers | None = None
    deadline_s: PositiveFloat = 900.0
    """A worker that takes longer over one call counts as hung: it is ended, and its work goes to another."""
    mode: Literal["sync", "async"] = "sync"
    """sync: an iteration is sampled with the newest adapter. async: with the one of `staleness` updates before, while
    the learner works; this changes the numbers, and they are the same for any number of workers all the same."""
    staleness: Annotated[int, Field(ge=1, le=64)] = 1

    @property
    def lag(self) -> int:
        """Updates between the adapter that samples an iteration and the one that learns from it."""
        return self.staleness if self.mode == "async" else 0

    @model_validator(mode="after")
    def _parts_fit(self) -> RuntimeConfig:
        for least, name in ((self.rollout_workers, "max_rollout_workers"), (self.reward_workers, "max_reward_workers")):
            most = getattr(self, name)
            if most is not None and most < least:
                raise ValueError(
                    f"got {name}={most} and {name.removeprefix('max_')}={least}; want a maximum that is no smaller; "
                    "raise it or leave it out"
                )
        if self.backend == "local" and (self.max_rollout_workers or self.max_reward_workers):
            raise ValueError(
                "got a maximum of workers with backend=local, which is one process; want backend=ray; change one"
            )
        return self


class EvaluationConfig(Section):
    """Held-out evaluation, base beside tuned, same prompts and same noise."""

    splits: dict[Literal["held_out", "original", "train"], str] = {
        "held_out": "target/test", "original": "source/test", "train": "target/train",
    }  # fmt: skip
    """Which split of the embedded worlds each name of the report stands for. What is held out and what must not be
    forgotten are test splits, and nothing else reads those. Names that are left out keep their default."""
    data: str | None = None
    """A data set that `rl-motion data import` made, instead of `splits`: `held_out` is what its `test` says in words
    that neither its `train` nor its `val` has, `train` what its `train` says. Nothing judges success there."""
    evaluator: str | None = None
    """With `data`: the directory of an evaluator that was trained on it (`rl-motion pretrain`), by which motion is
    compared with the real motion of `test`. None: the field's metrics are left out."""
    prompts: Many = 64
    samples_per_prompt: Thousand = 4
    guidance_scale: NonNegative | None = None
    """None: the policy's own."""
    page_prompts: Annotated[int, Field(ge=0, le=1000)] = 8
    validate_every: Million | None = None
    """While training, after every so many iterations: the mean total reward on prompts of `prompts.validation`,
    `samples_per_prompt` motions each, the same noise every time. It costs as many rollouts and changes no adapter."""
    validation_prompts: Many = 32
    seed: Seed = 20_000

    @property
    def examined(self) -> dict[str, str]:
        """Names of the report, and the splits that they stand for: of the data set where there is one."""
        if self.data is not None:
            return {"held_out": "test", "train": "train"}
        return {str(name): split for name, split in self.splits.items()}

    @model_validator(mode="after")
    def _evaluator_has_data(self) -> EvaluationConfig:
        if self.evaluator is not None and self.data is None:
            raise ValueError(
                f"got evaluator={self.evaluator[:60]!r} without data; want the data set that it was trained on, as the "
                "embedded worlds have evaluators of their own; set evaluation.data"
            )
        return self

    @field_validator("splits", mode="before")
    @classmethod
    def _every_name_stands_for_a_split(cls, value: object) -> object:
        return {**cls.model_fields["splits"].default, **value} if isinstance(value, dict) else value

    @field_validator("splits")
    @classmethod
    def _held_out_is_held_out(cls, value: dict[str, str]) -> dict[str, str]:
        for name, split in value.items():
            part = "train" if name == "train" else "test"
            if not re.fullmatch(rf"(source|target|first|second)/{part}", split):
                raise ValueError(
                    f"got {name}={split[:60]!r}; want source/{part}, target/{part}, first/{part} or second/{part}, as "
                    "settings and checkpoints are chosen on other splits; name one of these"
                )
        return value


class TrackingConfig(Section):
    """JSONL is always written; MLflow beside it unless its uri is null."""

    mlflow_uri: str | None = "sqlite:///{out}/mlflow.db"
    """`{out}` is the folder given with --out."""
    experiment: str = "rl_motion"
    parent: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    """Key of the sweep that the run belongs to, whose MLflow run it is nested in; `rl-motion sweep` sets it."""


class Job(Section):
    """A reproducible run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    policy: PolicyConfig = PolicyConfig()
    prompts: PromptsConfig = PromptsConfig()
    rewards: tuple[RewardConfig, ...] = (RewardConfig(name="tmr"),)
    calibration: str | None = None
    """A file that `rl-motion calibrate` wrote: every reward counts in standard deviations of the base model's motions.
    None: rewards count in their own units."""
    sentinels: SentinelsConfig = SentinelsConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    train: TrainConfig = TrainConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _learns_from_what_is_sampled(self) -> Job:
        made = self.policy.steps - (self.policy.last_step == "frozen")
        asked = self.algorithm.transitions
        if asked is not None and asked > made > 0:
            raise ValueError(
                f"got algorithm.transitions={asked} and policy.steps={self.policy.steps}, of which {made} are "
                "stochastic transitions; want as many at most; lower algorithm.transitions or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _sees_what_it_pauses_for(self) -> Job:
        if self.sentinels.pause and (self.evaluation.validate_every is None or self.sentinels.bands is None):
            raise ValueError(
                f"got sentinels.pause=true, evaluation.validate_every={self.evaluation.validate_every} and "
                f"sentinels.bands={self.sentinels.bands}, by which nothing is judged; want validation and bands; set "
                "both, or leave pause out"
            )
        return self

    @model_validator(mode="after")
    def _knows_the_best(self) -> Job:
        if self.evaluation.validate_every is None and self.train.publish == "best":
            raise ValueError(
                "got train.publish=best and evaluation.validate_every=null, by which no adapter is the best; want "
                "validation; set evaluation.validate_every"
            )
        return self

    @property
    def prompt_sources(self) -> list[str]:
        """Names of all sources of prompts that training and validation read, splits of the embedded world included."""
        validation = [] if self.evaluation.validate_every is None else self.prompts.validation
        return [*self.prompts.sources, *validation]

    @property
    def sampling_policy(self) -> PolicyConfig:
        """The policy of evaluation and `sample`: training's own, with `evaluation.guidance_scale` where it is given."""
        guidance = self.evaluation.guidance_scale
        return self.policy if guidance is None else self.policy.model_copy(update={"guidance_scale": guidance})
