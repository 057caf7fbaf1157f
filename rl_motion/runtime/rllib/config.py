"""What an RLlib user sets: a job, and where the work runs. All else is refused instead of silently ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import yaml
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.util.debug import log_once

from rl_motion.config import Job, UserError, nearest
from rl_motion.config.load import change_job, dump_job, load_job
from rl_motion.rewards.of_job import read_files
from rl_motion.runtime.build import Workshop
from rl_motion.runtime.cluster import connect
from rl_motion.runtime.rllib.learning import Learning
from rl_motion.runtime.rllib.runner import Runner

_JOB = frozenset({"job_yaml", "search", "workshop"})
_READ = {
    "callbacks_class",
    "callbacks_on_algorithm_init",
    "callbacks_on_checkpoint_loaded",
    "callbacks_on_env_runners_recreated",
    "callbacks_on_train_result",
    "custom_resources_for_main_process",
    "custom_resources_per_env_runner",
    "env_runner_health_probe_timeout_s",
    "log_level",
    "logger_config",
    "logger_creator",
    "max_num_env_runner_restarts",
    "num_cpus_for_main_process",
    "num_cpus_per_env_runner",
    "num_env_runners",
    "placement_strategy",
}
"""RLlib's settings that change something here."""


class DDPOConfig(AlgorithmConfig):
    """`DDPOConfig().job("demo").env_runners(num_env_runners=2).build_algo()`."""

    env_runner_cls: Any
    merge_env_runner_states: Any

    def __init__(self, algo_class: type | None = None) -> None:
        """A config without a job."""
        from rl_motion.runtime.rllib.algorithm import DDPO

        super().__init__(algo_class=algo_class or DDPO)
        self.job_yaml: str = ""
        self.search: dict[str, Any] = {}
        self.workshop = Workshop()
        self.env_runner_cls = Runner
        self.create_local_env_runner = False
        # Nothing is pushed to runners: see Runner.
        self.merge_env_runner_states = False
        self.broadcast_env_runner_states = False
        self._dont_auto_sync_env_runner_states = True
        self.simple_optimizer = False  # as RLlib's validation leaves it

    def job(
        self,
        source: str | Job,
        overrides: Sequence[str] = (),
        *,
        search: Mapping[str, Any] | None = None,
        workshop: Workshop | None = None,
    ) -> Self:
        """What is trained, as `rl-motion train JOB --set ...` says it.

        Args:
            source: a YAML file, the name of a packaged job, or a job.
            overrides: `a.b=c` strings.
            search: keys of the job (`train.learning_rate`) to which Tune gives values, such as `tune.uniform(0, 1)`.
            workshop: how the parts are made; default: as in every run.

        Raises:
            UserError: the job does not fit the schema, or what its rewards read is not there.
        """
        made = change_job(source, overrides) if isinstance(source, Job) else load_job(source, overrides)
        self.job_yaml = dump_job(made)
        self.search = dict(search or {})
        # Read where the user is: runners elsewhere may have no such files.
        self.workshop = (workshop or self.workshop).carrying(read_files(made))
        return self

    @property
    def resolved_job(self) -> Job:
        """The job with what Tune chose.

        Raises:
            UserError: there is none, or a key that Tune sets is none of the schema.
        """
        if not self.job_yaml:
            raise UserError('got a DDPOConfig without a job; want one; call .job("demo")')
        chosen = [f"{name}={json.dumps(value)}" for name, value in self.search.items()]
        return change_job(Job.model_validate(yaml.safe_load(self.job_yaml)), chosen)

    def validate(self) -> None:
        """As RLlib's; besides, what would be ignored is refused.

        Raises:
            UserError: no job, a job that does not fit, or a setting that nothing here reads.
        """
        log_once(
            f"{getattr(self.algo_class, '__name__', None)}_on_new_api_stack"
        )  # else RLlib advises to leave it, which cannot work
        super().validate()
        if self.in_evaluation:  # RLlib's own copy, which it makes whether or not there is anything to evaluate
            return
        _refuse_unread(self.get_state())
        _ = self.resolved_job

    def build_algo(self, *arguments: Any, **options: Any) -> Any:
        """The algorithm; joins the cluster of this process or of RAY_ADDRESS, else starts one on loopback."""
        connect()
        return super().build_algo(*arguments, **options)

    def build_learner_group(self, **_: Any) -> Any:
        """Our learner in the algorithm's own process."""
        return Learning(self.resolved_job, self.workshop)

    def get_multi_rl_module_spec(self, **_: Any) -> MultiRLModuleSpec:
        """No module of RLlib's: the policy is ours."""
        return MultiRLModuleSpec(rl_module_specs={})

    def build_env_to_module_connector(self, *_: Any, **__: Any) -> Any:
        """None: there is no environment to connect."""
        return None

    def build_module_to_env_connector(self, *_: Any, **__: Any) -> Any:
        """None, likewise."""
        return None


def _refuse_unread(settings: Mapping[str, Any]) -> None:
    defaults = DDPOConfig().get_state()
    for name, value in settings.items():
        of_tune = name.startswith("__")  # which adds the places of its files
        if of_tune or name in _JOB | _READ or (name in defaults and defaults[name] == value):
            continue
        raise UserError(
            f"got the RLlib setting {name}={value!r}, which DDPO does not read; want one of {sorted(_READ)}; "
            f"{nearest(name, _READ, 'set what trains in the job: .job(JOB, [...])')}"
        )
