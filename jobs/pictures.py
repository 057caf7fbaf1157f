"""Take the pictures of docs/pictures: Ray's dashboard and MLflow's page of a run, in a real browser.

    python jobs/pictures.py                                    # a short demo on a cluster of its own, minutes
    python jobs/pictures.py --set train.iterations=3 --out /tmp/pictures

Needs what no run needs: a browser (Debian: apt-get install chromium chromium-driver) and pip install selenium pillow.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rl_motion.cli_guard import guarded
from rl_motion.config.errors import RunFault, UserError

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 250_000
CLOSES = "[data-component-id='mlflow.assistant.chat_panel.close']"
"""What closes the panel that MLflow opens at first and that hides a third of the page."""
WIDTH, HEIGHT = 1600, 1060
PATIENCE_S = 300.0
SETTLE_S = 5.0
"""Lists and curves come after the words."""
SHORT = ("train.iterations=20", "train.prompts_per_iteration=12", "evaluation.prompts=8", "evaluation.page_prompts=1")
QUIET = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps the node at 127.0.0.1
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def main(
    job: Annotated[str, typer.Option(help="A YAML file, or the name of a packaged job.")] = "demo",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the pictures go.")] = ROOT / "docs/pictures",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one key of the job; repeatable.")
    ] = None,
) -> None:
    """Start a cluster, submit a short job, and picture both while it runs and after."""
    with guarded(), tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        with browser() as driver, head(home) as address:
            sets = [word for one in (*SHORT, *(overrides or [])) for word in ("--set", one)]
            command = ["submit", job, "--address", address, "--out", "~/runs", *sets]
            submitted = subprocess.Popen(rl_motion(*command), env=environment(home))
            rows = wait_for("a finished iteration", lambda: next(home.glob("runs/*/metrics.jsonl"), None), submitted)
            wait_for("a finished iteration", lambda: rows.stat().st_size > 0, submitted)
            picture(driver, f"{address}/#/actors", "RolloutActor", out / "ray-actors.png")
            picture(driver, f"{address}/#/jobs", "RUNNING", out / "ray-jobs.png")
            if submitted.wait():
                raise RunFault(f"got exit code {submitted.returncode} from the job; want 0; read what it said above")
            with mlflow(home, rows.parent.parent) as pages:
                place = run_page(pages)
                picture(driver, f"{place}/model-metrics", "reward/total", out / "mlflow-run.png", section="reward")
    typer.echo(f"pictures: {out}")


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    binary, service = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        webdriver = None
    if webdriver is None or binary is None or service is None:
        raise UserError(
            "got no browser that a program can steer; want Chromium, its driver and selenium; install them: apt-get "
            "install chromium chromium-driver, pip install selenium pillow"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(word)
    driver = webdriver.Chrome(options=options, service=Service(service))
    try:
        yield driver
    finally:
        driver.quit()


def picture(driver: Any, url: str, words: str, path: Path, section: str | None = None) -> None:
    """What a page shows once it says `words`, as a PNG of few colours; from the heading `section` on."""
    from PIL import Image

    driver.get("about:blank")
    driver.get(url)
    if section is not None:  # what lies below is not drawn before it is seen
        heading = f"//*[normalize-space(text())='{section}']"
        [found, *_] = wait_for(f"{section!r} on {url}", lambda: driver.find_elements("xpath", heading))
        for close in driver.find_elements("css selector", CLOSES):
            close.click()
        driver.execute_script("arguments[0].scrollIntoView()", found)
    wait_for(f"{words!r} on {url}", lambda: words in driver.find_element("tag name", "body").text)
    time.sleep(SETTLE_S)
    whole = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    content = io.BytesIO()
    whole.quantize(64, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    if len(content.getvalue()) > MOST_BYTES:
        raise RunFault(f"got {len(content.getvalue())} bytes for {path.name}; want {MOST_BYTES} at most; crop it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())


@contextmanager
def head(home: Path) -> Iterator[str]:
    """A head node with its dashboard on loopback, whose home is `home`; yields its address."""
    command = home / "bin" / "rl-motion"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m rl_motion.cli "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    port, agent = free_port(), free_port()
    ports = [f"--port={free_port()}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={agent}"]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    with working([*start, *ports], home, home / "head.log"):
        wait_for("a head node", lambda: listens(port) and listens(agent))
        yield f"http://127.0.0.1:{port}"


@contextmanager
def mlflow(home: Path, runs: Path) -> Iterator[str]:
    """MLflow's pages of these runs; yields their address."""
    port = free_port()
    with working(rl_motion("ui", "--out", str(runs), "--port", str(port)), home, home / "mlflow.log"):
        wait_for("MLflow", lambda: listens(port))
        yield f"http://127.0.0.1:{port}"


def run_page(address: str) -> str:
    """The address of the newest run's page."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    [run] = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)
    return f"{address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


@contextmanager
def working(command: list[str], home: Path, log: Path) -> Iterator[None]:
    """A process for as long as it is needed."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment(home), cwd=home, stdout=file, stderr=file, start_new_session=True
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def environment(home: Path) -> dict[str, str]:
    """Of every process here."""
    path = f"{home / 'bin'}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, **QUIET, "HOME": str(home), "PATH": path, "PYTHONPATH": str(ROOT)}


def rl_motion(*words: str) -> list[str]:
    """A command of this checkout."""
    return [sys.executable, "-m", "rl_motion.cli", *words]


def wait_for(what: str, there: Callable[[], Any], process: subprocess.Popen[bytes] | None = None) -> Any:
    """What `there` gives once it is true; raises RunFault after minutes, or where the process has failed."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := there()):
        failed = process is not None and process.poll() not in (None, 0)
        if failed or time.monotonic() > deadline:
            raise RunFault(f"got no sign of {what}; want one within {PATIENCE_S:.0f} s; read what was said above")
        time.sleep(0.5)
    return found


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    typer.run(main)
