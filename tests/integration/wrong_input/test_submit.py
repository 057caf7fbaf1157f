"""Wrong input: a cluster. Where it is, who may enter, what is sent, which job is meant; nothing is ever submitted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from rl_motion.cli import app
from tests.integration.wrong_input.desk import SECRET, Case, Desk, refused, table

HEAD = "http://127.0.0.1:1"


def submit(*more: str, job: str = "job.yaml", address: str = HEAD) -> list[str]:
    """A job that may be sent, unless the case spoils it."""
    return ["submit", job, "--address", address, "--set", "model.name=mdm-embedded", *more]


def resume(*more: str) -> list[str]:
    return ["submit", "--address", HEAD, *more]


def at(address: str, *says: str) -> Case:
    return Case(f"at {address}", submit(address=address), [*says, "http://head:8265"])


@pytest.fixture(autouse=True)
def _no_address_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@table(
    at("head:8265", "'head:8265'"),
    at("head", "'head'"),
    at("", "''"),
    at("http://", "'http://'"),
    at("http://head:99999", "99999"),
    at("http://head:port", "port"),
    at("http://he ad:8265", "'http://he ad:8265'"),
    at("ray://head:10001", "ray://"),
    at("http://head:8265?token=1", "token=1"),
    at("http://head:8265/\x1b[31m", "\\x1b"),
    at(f"http://user:{SECRET}@head:8265", "..."),
    Case("nothing listens", submit(), [HEAD, "refused", "start"]),
    Case("no address", ["submit", "job.yaml"], ["--address", "RAY_API_SERVER_ADDRESS"]),
    Case("no address to list", ["jobs", "list"], ["--address"]),
    Case("nothing listens to list", ["jobs", "list", "--address", HEAD], [HEAD, "refused"]),
    Case("no id", ["jobs", "logs", "--address", HEAD], ["ID"]),
    Case("no such command", ["jobs", "kill"], ["kill"]),
    Case("no job file", submit(job="gone.yaml"), ["gone.yaml", "no file"]),
    Case("a job that is not YAML", submit(), ["job.yaml", "not YAML"], lambda d: d.write("job.yaml", "name: [")),
    Case("a key that is none", submit("--set", "train.iteratoins=3"), ["did you mean 'train.iterations'"]),
    Case("a negative seed", submit("--seed", "-1"), ["--seed"]),
    Case("an unknown reward", submit("--set", "rewards=[{name: jrek}]"), ["'jrek'", "'jerk'"]),
    Case("no plugin", submit("--set", 'rewards=[{name: "gone.py:Mine"}]'), ["gone.py", "No such file"]),
    Case("no prompts", submit(), ["prompts.txt", "No such file"], lambda d: d.remove("prompts.txt")),
    Case(
        "prompts out of the directory",
        submit("--set", "prompts.sources={../prompts.txt: 1}"),
        ["../prompts.txt", "working directory"],
        lambda d: d.write("../prompts.txt", "".join(f"a person {n}#12\n" for n in range(6))),
    ),
    Case("no calibration", submit("--set", "calibration=gone.json"), ["gone.json"]),
    Case("a checkpoint of this machine", ["submit", "job.yaml", "--address", HEAD], ["'zoo/mdm'", "absolute path"]),
    Case(
        "a password for MLflow",
        submit("--set", f"tracking.mlflow_uri=https://u:{SECRET}@h"),
        ["tracking.mlflow_uri", "MLFLOW_TRACKING_PASSWORD"],
    ),
    Case("--out here", submit("--out", "runs"), ["--out 'runs'", "'~/runs'"]),
    Case("--out of another's home", submit("--out", "~other/runs"), ["--out '~other/runs'"]),
    Case("--out over two lines", submit("--out", "/runs\nrm -r"), ["--out"]),
    Case("resume here", resume("--resume", "runs/demo"), ["--resume 'runs/demo'"]),
    Case("resume with a seed", resume("--resume", "/runs/demo", "--seed", "3"), ["--seed", "leave it out"]),
    Case(
        "resume with a password",
        resume("--resume", "/runs/demo", "--set", f"tracking.mlflow_uri=https://u:{SECRET}@h"),
        ["tracking.mlflow_uri"],
    ),
    Case("resume with no such job", ["submit", "gone.yaml", *resume("--resume", "/runs/demo")[1:]], ["gone.yaml"]),
    Case("neither job nor run", resume(), ["neither JOB nor --resume"]),
    Case("a value on the command line", submit("--env", f"TOKEN={SECRET}"), ["--env TOKEN=...", "--env NAME"]),
    Case("a variable that is not set", submit("--env", "NOT_SET_HERE"), ["NOT_SET_HERE", "export"]),
    Case("a variable without a name", submit("--env", ""), ["--env ''"]),
    Case("a name that is none", submit("--env", "MY-TOKEN"), ["'MY-TOKEN'"]),
    Case("negative CPUs", submit("--entrypoint-cpus", "-1"), ["--entrypoint-cpus"]),
    Case("a resource without amount", submit("--entrypoint-resource", "driver"), ["'driver'", "NAME=AMOUNT"]),
    Case("none of a resource", submit("--entrypoint-resource", "driver=0"), ["'driver=0'"]),
    Case("a resource in words", submit("--entrypoint-resource", "driver=one"), ["'driver=one'"]),
)
def test_clusters(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)


class Answers(BaseHTTPRequestHandler):
    """A server that gives every path one answer, or that of a Ray without jobs."""

    answer: tuple[int, str] | None = None

    def do_GET(self) -> None:
        version = json.dumps({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})
        code, text = self.answer or ((200, version) if self.path == "/api/version" else (404, "Job does not exist"))
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_PUT = do_GET

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start such a server; returns its address."""
    started = []

    def start(answer: tuple[int, str] | None = None) -> str:
        handler = type("Handler", (Answers,), {"answer": answer})
        server = HTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((401, "Unauthorized: Missing authentication token"), ["no token", "RAY_AUTH_MODE=token"]),
        ((403, "Forbidden: Invalid authentication token"), ["another token", "RAY_AUTH_TOKEN_PATH"]),
        ((404, "nothing here"), ["404", "check the address"]),
        ((500, "boom"), ["500", "check the address"]),
        ((200, "<html>another server</html>"), ["check the address"]),
        ((200, "{}"), ["check the address"]),
        ((200, '{"ray_version": "1.2.0"}'), ["1.2.0"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_servers(
    answer: tuple[int, str], says: list[str], serve: Callable[..., str], hold: Callable[[Case], None]
) -> None:
    address = serve(answer)
    for command in (submit(address=address), ["jobs", "list", "--address", address]):
        hold(Case("a server", command, [address, *says]))


@pytest.mark.parametrize("command", [["logs"], ["logs", "--follow"], ["stop"]], ids=" ".join)
@pytest.mark.parametrize("job_id", ["demo-123456", "../../version", "a b", "x" * 300])
def test_jobs_that_nobody_knows(
    command: list[str], job_id: str, serve: Callable[..., str], hold: Callable[[Case], None]
) -> None:
    address = serve()
    says = [job_id[:200], f"rl-motion jobs list --address {address}"]
    hold(Case("unknown", ["jobs", *command, job_id, "--address", address], says))


def test_control_the_job_is_right(desk: Desk, serve: Callable[..., str]) -> None:
    """Without a mistake the same command line gets as far as the server, which has no place for jobs."""
    ended = CliRunner().invoke(app, submit(address=serve()))
    refused(ended, ["404"], {}, {})
    assert "check the address" in ended.stderr
