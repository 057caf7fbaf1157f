"""What is sent to a cluster, how a job there is followed, and how both go wrong; Ray's client is a fake."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.config import Job, UserError
from rl_motion.config.load import dump_job, load_job
from rl_motion.runtime import frontend, job_server, submit
from tests import fakes
from tests.fakes import toy_job

HEAD = "http://head:8265"
SECRET = "hunter2-correct-horse"


class Status(str):
    """As Ray's: a string with a `value`, and whether it is the last."""

    @property
    def value(self) -> str:
        return str(self)

    def is_terminal(self) -> bool:
        return self in {"SUCCEEDED", "FAILED", "STOPPED"}


def details(status: str, code: int | None = None, **more: Any) -> SimpleNamespace:
    known = {
        "message": None,
        "submission_id": "toy-1",
        "entrypoint": "rl-motion train",
        "start_time": 1000,
        "end_time": 4000,
    }
    return SimpleNamespace(status=Status(status), driver_exit_code=code, **{**known, **more})


@dataclass
class Client:
    """Ray's client without a cluster: a job says `words`, one per `states`, and ends in the last of these."""

    states: list[Any] = field(default_factory=lambda: [details("RUNNING"), details("SUCCEEDED", 0)])
    words: list[str] = field(default_factory=lambda: ["one\n", "two\n"])
    breaks: bool = False
    interrupts: bool = False
    sent: list[dict[str, Any]] = field(default_factory=list)
    folder: dict[str, bytes] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    fails: Exception | None = None
    starting: int = 0

    def submit_job(self, **request: Any) -> str:
        if self.starting:
            self.starting -= 1
            raise RuntimeError(
                "Request failed with status code 500: No available agent to submit job, please try again."
            )
        if self.fails:
            raise self.fails
        self.sent.append(request)
        if folder := request["runtime_env"].get("working_dir"):
            paths = [path for path in Path(folder).rglob("*") if path.is_file()]
            self.folder = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
        return str(request["submission_id"])

    def get_job_info(self, job_id: str) -> Any:
        if self.fails:
            raise self.fails
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def get_job_logs(self, job_id: str) -> str:
        return "".join(self.words)

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield self.words[0]
        if self.interrupts:
            raise KeyboardInterrupt
        if self.breaks:
            self.breaks = False
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        for text in self.words[1:]:
            yield text

    def list_jobs(self) -> list[Any]:
        return [details("SUCCEEDED", 0), details("RUNNING", submission_id=None), details("RUNNING", start_time=2000)]

    def stop_job(self, job_id: str) -> bool:
        self.stopped.append(job_id)
        return True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Client:
    """A server that answers at every address, an empty working directory, toys in place of models."""
    fake = Client()
    monkeypatch.setattr(job_server, "make_client", lambda address: fake)
    monkeypatch.setattr(job_server, "_probe", lambda address: None)
    monkeypatch.setattr(job_server, "_POLL_S", 0.0)
    monkeypatch.setattr(frontend, "MEANS", fakes.MEANS)
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(dump_job(toy_job()))
    return fake


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--address", HEAD])


def prompts_job(**changes: Any) -> str:
    job = toy_job().model_dump(mode="json") | changes
    Path("job.yaml").write_text(dump_job(type(toy_job()).model_validate(job)))
    return "job.yaml"


def test_the_resolved_job_is_sent_and_nothing_else(client: Client) -> None:
    Path("private.txt").write_text("not to be sent")
    ended = invoke("submit", "toy.yaml", "--set", "train.iterations=3", "--seed", "5")
    assert ended.exit_code == 0, ended.output
    assert ended.output.endswith("one\ntwo\n")
    [request] = client.sent
    assert request["entrypoint"] == "rl-motion train rl-motion-job.yaml --out ~/runs"
    assert request["submission_id"].startswith("toy-")
    assert request["entrypoint_num_cpus"] is None and request["entrypoint_resources"] is None
    assert client.folder.keys() == {"rl-motion-job.yaml"}
    Path("sent.yaml").write_bytes(client.folder["rl-motion-job.yaml"])
    assert load_job("sent.yaml") == load_job("toy.yaml", ["train.iterations=3"], 5)


def test_files_that_the_job_names_travel_by_their_names(client: Client) -> None:
    Path("data").mkdir()
    for name in ("data/mine.txt", "calibration.json", "mine.py"):
        Path(name).write_text(name)
    rewards = [{"name": "mine.py:Mine"}, {"name": "jerk"}]
    job = prompts_job(
        prompts={"sources": {"./data/mine.txt": 1.0, "target/train": 1.0}},
        calibration="calibration.json",
        rewards=rewards,
    )
    assert invoke("submit", job).exit_code == 0
    del client.folder["rl-motion-job.yaml"]
    assert client.folder == {name: name.encode() for name in ("data/mine.txt", "calibration.json", "mine.py")}


def test_a_resume_sends_no_file_unless_a_job_names_some(client: Client) -> None:
    assert invoke("submit", "--resume", "/data/runs/my run", "--set", "train.iterations=9").exit_code == 0
    [request] = client.sent
    assert request["entrypoint"] == "rl-motion resume '/data/runs/my run' --set train.iterations=9"
    assert "working_dir" not in request["runtime_env"]
    Path("mine.txt").write_text("a person walks")
    assert invoke("submit", prompts_job(prompts={"sources": {"mine.txt": 1.0}}), "--resume", "~/runs/x").exit_code == 0
    assert client.sent[1]["entrypoint"] == "rl-motion resume ~/runs/x"
    assert client.folder == {"mine.txt": b"a person walks"}


def test_what_is_typed_is_quoted_for_the_shell_there(client: Client) -> None:
    assert invoke("submit", "toy.yaml", "--out", "~/a; rm -rf b").exit_code == 0
    assert client.sent[0]["entrypoint"].endswith("--out ~/'a; rm -rf b'")


def test_values_come_from_the_environment_and_are_never_said(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    ended = invoke("submit", "toy.yaml", "--env", "MLFLOW_TRACKING_TOKEN")
    assert ended.exit_code == 0
    environment = client.sent[0]["runtime_env"]["env_vars"]
    assert environment["MLFLOW_TRACKING_TOKEN"] == SECRET
    assert environment["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    assert SECRET not in ended.output + ended.stderr
    assert SECRET not in repr(submit.Submission("toy", "rl-motion", environment=environment))


def test_a_head_that_is_still_starting_is_asked_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.starting = 2
    assert invoke("submit", "toy.yaml").exit_code == 0
    assert len(client.sent) == 1
    monkeypatch.setattr(job_server, "_PATIENCE_S", -1.0)
    client.starting = 2
    assert invoke("submit", "toy.yaml").exit_code == 2
    assert len(client.sent) == 1


def test_what_the_command_claims(client: Client) -> None:
    assert invoke("submit", "toy.yaml", "--entrypoint-cpus", "2", "--entrypoint-resource", "driver=0.5").exit_code == 0
    assert client.sent[0]["entrypoint_num_cpus"] == 2
    assert client.sent[0]["entrypoint_resources"] == {"driver": 0.5}


@pytest.mark.parametrize(
    ("state", "code", "word"),
    [
        (details("SUCCEEDED", 0), 0, ""),
        (details("FAILED", 1), 1, "exit code 1"),
        (details("FAILED", 2), 2, "exit code 2"),
        (details("FAILED", 130), 1, "exit code 130"),
        (details("FAILED", 127), 1, "install it"),
        (details("FAILED", None, message="no such\x1b[31m runtime environment"), 1, "no such\\x1b[31m runtime"),
        (details("STOPPED"), 1, "stopped"),
    ],
)
def test_the_exit_code_is_the_jobs_own(client: Client, state: Any, code: int, word: str) -> None:
    client.states = [details("PENDING"), state]
    ended = invoke("submit", "toy.yaml")
    assert ended.exit_code == code, ended.output
    assert word in ended.stderr
    assert ("rl-motion submit --resume RUN" in ended.stderr) == bool(code)


def test_a_connection_that_breaks_repeats_nothing(client: Client) -> None:
    client.breaks, client.states = True, [details("RUNNING"), details("RUNNING"), details("SUCCEEDED", 0)]
    ended = invoke("jobs", "logs", "toy-1", "--follow")
    assert (ended.exit_code, ended.output) == (0, "one\ntwo\n")


def test_a_server_that_goes_away_is_a_fault_of_the_run(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server, "_PATIENCE_S", 0.0)
    server = job_server.JobServer(HEAD)

    def show(text: str) -> None:
        client.fails = ConnectionError("gone")

    with pytest.raises(job_server.RunFault, match="may go on"):
        server.follow("toy-1", show)


def test_ctrl_c_ends_the_reading_and_says_how_to_go_on(client: Client) -> None:
    client.interrupts = True
    ended = invoke("submit", "toy.yaml")
    assert ended.exit_code == 130
    job_id = client.sent[0]["submission_id"]
    assert f"rl-motion jobs logs --follow {job_id} --address {HEAD}" in ended.stderr
    assert f"rl-motion jobs stop {job_id} --address {HEAD}" in ended.stderr
    assert client.stopped == []


def test_list_logs_and_stop(client: Client) -> None:
    listed = invoke("jobs", "list").output.splitlines()
    assert ["RUNNING" in line for line in listed] == [
        True,
        False,
    ]  # newest first; drivers that nobody submitted left out
    assert all("rl-motion train" in line for line in listed)
    assert invoke("jobs", "logs", "toy-1").output == "one\ntwo\n"
    client.states = [details("RUNNING"), details("RUNNING"), details("STOPPED")]
    assert "stopped: toy-1" in invoke("jobs", "stop", "toy-1").output
    assert client.stopped == ["toy-1"]
    assert "had ended before" in invoke("jobs", "stop", "toy-1").output
    assert client.stopped == ["toy-1"]


def test_another_address_in_the_environment_does_not_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client obeys RAY_ADDRESS before its argument."""
    import ray.job_submission

    seen = {}

    def made(address: str) -> None:
        seen.update({address: [name for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ]})

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", made)
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:8265")
    job_server.make_client(HEAD)
    assert seen == {HEAD: []}
    assert os.environ["RAY_ADDRESS"] == "http://elsewhere:8265"


def test_control_rays_own_client_obeys_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.dashboard.utils import get_address_for_submission_client

    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    assert get_address_for_submission_client(HEAD) == "http://elsewhere:8265"


@pytest.fixture
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    assert [path.name for path in tmp_path.iterdir()] == ["toy.yaml"]


def refusals() -> list[tuple[Exception, str, str]]:
    from ray.exceptions import AuthenticationError

    return [
        (AuthenticationError("Authentication required"), "got no token", "RAY_AUTH_MODE=token"),
        (
            AuthenticationError("the authentication token is invalid or incorrect"),
            "another token",
            "RAY_AUTH_TOKEN_PATH",
        ),
        (RuntimeError("Request failed with status code 500: boom."), "boom", "check the address"),
        (ConnectionError("Failed to connect"), "Failed to connect", "check the address"),
        (ValueError("Package size (600MiB) exceeds the maximum size"), "too large", "absolute path"),
    ]


@pytest.mark.usefixtures("no_leftovers")
def test_a_server_that_refuses(client: Client) -> None:
    for error, got, do in refusals():
        client.fails = error
        ended = invoke("submit", "toy.yaml")
        assert ended.exit_code == 2
        assert got in ended.stderr and "; want " in ended.stderr and do in ended.stderr


def test_an_unknown_job(client: Client) -> None:
    client.fails = RuntimeError("Request failed with status code 404: Job toy-9 does not exist.")
    for command in (["logs", "toy-9"], ["logs", "toy-9", "--follow"], ["stop", "toy-9"], ["stop", "../toy"]):
        ended = invoke("jobs", *command)
        assert ended.exit_code == 2
        assert command[1] in ended.stderr and "rl-motion jobs list" in ended.stderr


def test_a_job_is_checked_before_anybody_is_asked(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server, "_probe", lambda address: pytest.fail("the server was asked"))
    for arguments in (["nowhere.yaml"], ["toy.yaml", "--set", "train.iteratoins=3"], ["toy.yaml", "--env", "NOT_SET"]):
        assert invoke("submit", *arguments).exit_code == 2
    assert client.sent == []


def test_a_job_that_train_would_refuse_is_refused_here(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(job: Job) -> None:
        raise UserError("got toys; want models; choose one")

    monkeypatch.setattr(frontend, "MEANS", replace(fakes.MEANS, workshop=replace(fakes.WORKSHOP, check=refuse)))
    ended = invoke("submit", "toy.yaml")
    assert (ended.exit_code, client.sent) == (2, [])
    assert "got toys" in ended.stderr


def test_paths_of_the_cluster_alone_are_checked_there(client: Client) -> None:
    job = prompts_job(prompts={"sources": {"/cluster/prompts.txt": 1.0}})
    ended = invoke("submit", job)
    assert ended.exit_code == 0
    assert client.folder.keys() == {"rl-motion-job.yaml"}
    assert "not on this machine: /cluster/prompts.txt" in ended.stderr


def test_a_checkpoint_of_this_machine_is_not_sent(client: Client) -> None:
    Path("zoo/mdm").mkdir(parents=True)
    Path("zoo/mdm/config.json").write_text("{}")
    with pytest.raises(UserError, match="absolute path"):
        submit.files_of(fakes.with_model(toy_job(), "zoo/mdm"))


@pytest.mark.parametrize("key", ["data", "evaluator"])
def test_what_evaluation_reads_here_is_not_sent_and_what_lies_there_is_checked_there(client: Client, key: str) -> None:
    Path("mine").mkdir()
    Path("mine/config.json").write_text("{}")
    there = {"data": "/cluster/data", "evaluator": "/cluster/guo"}
    ended = invoke("submit", prompts_job(evaluation=there | {key: "mine"}))
    assert ended.exit_code == 2 and client.sent == []
    assert f"evaluation.{key}: got 'mine'" in ended.stderr and "absolute path" in ended.stderr
    ended = invoke("submit", prompts_job(evaluation=there))
    assert ended.exit_code == 0, ended.stderr
    assert "not on this machine: /cluster/data, /cluster/guo" in ended.stderr
    assert client.folder.keys() == {"rl-motion-job.yaml"}
