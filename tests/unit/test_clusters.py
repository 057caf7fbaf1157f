"""What clusters/ and docker/ describe is what Ray's launcher, KubeRay and the linters take; each check can fail."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from rl_motion.config import Job
from rl_motion.runtime.status import Role

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = sorted((ROOT / "clusters").glob("*.yaml"))
KUBERAY = sorted((ROOT / "clusters" / "kuberay").glob("*.yaml"))
BATCH = ROOT / "clusters" / "slurm" / "rl-motion.sbatch"
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
ROLES = {"rollout", "reward", "learner"}


def name(path: Path) -> str:
    return path.name


def read(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def everything(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    for key, value in tree.items() if isinstance(tree, dict) else [("", item) for item in tree]:
        yield key, value
        if isinstance(value, (dict, list)):
            yield from everything(value)


def words_of_jobs(tree: Any, names: set[str]) -> set[str]:
    """Keys in a tree that are settings of a job."""
    return {key for key, _ in everything(tree) if key in names}


def tool(command: str) -> str:
    found = shutil.which(command, path=str(Path(sys.executable).parent)) or shutil.which(command)
    if found is None:
        pytest.skip(f"{command} is not installed")
    return found


def lint(command: str, *arguments: str, text: str) -> str:
    """What a linter says of a text."""
    ran = subprocess.run([tool(command), *arguments, "-"], input=text, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 or ran.stdout, ran.stderr
    return ran.stdout


# Ray's cluster launcher


def launch(tree: dict[str, Any]) -> dict[str, Any]:
    """What the launcher makes of a file, offline; raises where it would refuse it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(tree))
    validate_config(prepared)
    return prepared


def launcher_mistakes(tree: dict[str, Any]) -> list[str]:
    """Where a file of the launcher's is not what this package needs."""
    prepared = launch(tree)
    types = prepared["available_node_types"]
    workers = {key: kind for key, kind in types.items() if key != prepared["head_node_type"]}
    roles = {role: kind for kind in workers.values() for role in kind["resources"]}
    starts = [*prepared["head_start_ray_commands"], *prepared["worker_start_ray_commands"]]
    installs = [*prepared["setup_commands"], *prepared["head_setup_commands"], *prepared["worker_setup_commands"]]
    checks = {
        "roles": roles.keys() == ROLES,
        "a node of each role from the start": all(kind["min_workers"] >= 1 for kind in workers.values()),
        "bounds": prepared["max_workers"] >= sum(kind["max_workers"] for kind in workers.values()),
        "no work on the head": types[prepared["head_node_type"]]["resources"] == {"CPU": 0},
        "token": "--env=RAY_AUTH_MODE=token" in prepared["docker"]["run_options"]
        and "/home/motion/.ray/auth_token" in prepared["file_mounts"],
        "closed dashboard": all("--dashboard-host=127.0.0.1" in line for line in starts if "--head" in line),
        "one rounding": "--env=ATEN_CPU_CAPABILITY=default" in prepared["docker"]["run_options"],
        "no other Ray": not any(re.search(r"\bray\b", line) for line in installs),
    }
    return [check for check, passed in checks.items() if not passed]


@pytest.mark.parametrize("path", LAUNCHER, ids=name)
def test_the_launcher_takes_them(path: Path) -> None:
    assert launcher_mistakes(read(path)[0]) == []


def test_there_are_launcher_files() -> None:
    assert [path.stem for path in LAUNCHER] == ["aws", "gcp"]


@pytest.mark.parametrize("path", LAUNCHER, ids=name)
@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (lambda tree: tree["available_node_types"]["rollout"].update(resources={"rolout": 1}), "roles"),
        (lambda tree: tree["available_node_types"]["reward"].update(min_workers=0), "a node of each role"),
        (lambda tree: tree.update(max_workers=5), "bounds"),
        (lambda tree: tree["available_node_types"]["head"].update(resources={}), "no work on the head"),
        (lambda tree: tree.pop("file_mounts"), "token"),
        (lambda tree: tree["docker"].update(run_options=[]), "token"),
        (lambda tree: tree.pop("head_start_ray_commands"), "closed dashboard"),
        (lambda tree: tree["docker"].update(run_options=["--env=RAY_AUTH_MODE=token"]), "one rounding"),
        (lambda tree: tree.pop("setup_commands"), "no other Ray"),
    ],
)
def test_control_a_launcher_file_that_is_wrong(path: Path, change: Callable[[Any], object], mistake: str) -> None:
    tree = read(path)[0]
    change(tree)
    assert any(found.startswith(mistake) for found in launcher_mistakes(tree))


@pytest.mark.parametrize("path", LAUNCHER, ids=name)
@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.update(idle_timeout_minuets=3),
        lambda tree: tree["docker"].update(imagee="x"),
        lambda tree: tree.update(head_node_type="nowhere"),
        lambda tree: tree.update(max_workers="many"),
        lambda tree: tree["available_node_types"]["learner"].update(min_worker=1),
    ],
)
def test_control_the_launcher_refuses_a_typo(path: Path, change: Callable[[Any], object]) -> None:
    tree = read(path)[0]
    change(tree)
    with pytest.raises(Exception, match=r"minuets|imagee|nowhere|many|min_worker|head_node_type"):
        launch(tree)


# KubeRay


def ray_cluster(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = tree["spec"] if tree["kind"] == "RayCluster" else tree["spec"]["rayClusterSpec"]
    return found


def kuberay_mistakes(tree: dict[str, Any], release: str) -> list[str]:
    """Where a RayCluster or RayJob is not what this package needs, as far as can be told without KubeRay's schemas."""
    spec = ray_cluster(tree)
    groups = spec["workerGroupSpecs"]
    pods = [spec["headGroupSpec"]["template"]["spec"], *(group["template"]["spec"] for group in groups)]
    containers = [container for pod in pods for container in pod["containers"]]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pods[0].get("volumes", [])]
    mounts = [mount["mountPath"] for mount in pods[0]["containers"][0].get("volumeMounts", [])]
    autoscaled = spec.get("enableInTreeAutoscaling", False)
    checks = {
        "release": spec["rayVersion"] == release,
        "token": spec.get("authOptions") == {"mode": "token"},
        "roles": {role for group in groups for role in group["resources"]} == ROLES,
        "a node of each role from the start": all(g["replicas"] >= g["minReplicas"] >= 1 for g in groups),
        "bounds": all(group["maxReplicas"] >= group["minReplicas"] for group in groups),
        "no work on the head": spec["headGroupSpec"]["rayStartParams"].get("num-cpus") == "0",
        "strings": all(isinstance(v, str) for g in groups for v in (g["resources"] | g["rayStartParams"]).values()),
        "unprivileged": all(pod["securityContext"]["runAsNonRoot"] for pod in pods),
        "one image": len({container["image"] for container in containers}) == 1,
        "one rounding": all({"name": "ATEN_CPU_CAPABILITY", "value": "default"} in c["env"] for c in containers),
        "memory that is kept": all(c["resources"]["requests"] == c["resources"]["limits"] for c in containers),
        "runs outlive the head": claims == ["rl-motion-runs"] and mounts == ["/home/motion/runs"],
        "restarts": not autoscaled or all(pod["restartPolicy"] == "Never" for pod in pods),
    }
    return [check for check, passed in checks.items() if not passed]


def custom_objects(path: Path) -> list[dict[str, Any]]:
    return [tree for tree in read(path) if tree["apiVersion"] == "ray.io/v1"]


def strict(schema: Any) -> Any:
    """A schema of Kubernetes that refuses unknown keys, as the API server does not."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made["properties"] = {key: strict(value) for key, value in schema["properties"].items()}
        made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


@pytest.fixture(scope="session")
def schemas(shared_dir: Path) -> dict[str, Any]:
    """KubeRay's own, by kind."""
    files = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}
    found = {}
    for kind, file in files.items():
        path = shared_dir / "schemas" / file
        if not path.is_file():
            pytest.skip("no schemas of KubeRay beside the checkout")
        versions = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
        whole = next(version for version in versions if version["name"] == "v1")["schema"]["openAPIV3Schema"]
        found[kind] = strict(whole["properties"]["spec"])
    return found


def schema_mistakes(tree: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    from jsonschema import Draft7Validator

    return [error.message for error in Draft7Validator(schemas[tree["kind"]]).iter_errors(tree["spec"])]


@pytest.mark.parametrize("path", KUBERAY, ids=name)
def test_kuberay_objects_are_what_the_package_needs(path: Path) -> None:
    import ray

    [tree] = custom_objects(path)
    assert kuberay_mistakes(tree, ray.__version__) == []


@pytest.mark.parametrize("path", KUBERAY, ids=name)
def test_kuberay_takes_them(path: Path, schemas: dict[str, Any]) -> None:
    [tree] = custom_objects(path)
    assert schema_mistakes(tree, schemas) == []


def test_there_are_kuberay_files() -> None:
    assert [custom_objects(path)[0]["kind"] for path in KUBERAY] == ["RayCluster", "RayJob"]


@pytest.mark.parametrize("path", KUBERAY, ids=name)
@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (lambda spec: spec.update(rayVersion="2.59.0"), "release"),
        (lambda spec: spec.pop("authOptions"), "token"),
        (lambda spec: spec["workerGroupSpecs"][0].update(resources={"rolout": "1"}), "roles"),
        (lambda spec: spec["workerGroupSpecs"][0].update(minReplicas=0), "a node of each role"),
        (lambda spec: spec["workerGroupSpecs"][0].update(maxReplicas=0), "bounds"),
        (lambda spec: spec["headGroupSpec"].update(rayStartParams={}), "no work on the head"),
        (lambda spec: spec["workerGroupSpecs"][0]["resources"].update(rollout=1), "strings"),
        (lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].update(image="x"), "one image"),
        (lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].update(env=[]), "one rounding"),
        (lambda spec: spec["headGroupSpec"]["template"]["spec"].pop("volumes"), "runs outlive the head"),
    ],
)
def test_control_a_kuberay_object_that_is_wrong(path: Path, change: Callable[[Any], object], mistake: str) -> None:
    import ray

    [tree] = copy.deepcopy(custom_objects(path))
    change(ray_cluster(tree))
    assert any(found.startswith(mistake) for found in kuberay_mistakes(tree, ray.__version__))


@pytest.mark.parametrize("path", KUBERAY, ids=name)
def test_control_kuberays_schemas_see_typos(path: Path, schemas: dict[str, Any]) -> None:
    changes: list[Callable[[Any], object]] = [
        lambda spec: spec.update(rayVersoin="2.60.0"),
        lambda spec: spec["authOptions"].update(mode="tokn"),
        lambda spec: spec["workerGroupSpecs"][0].update(minReplicas="one"),
        lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].update(imagePullPolcy="Always"),
        lambda spec: spec["headGroupSpec"].pop("template"),
    ]
    for change in changes:
        [tree] = copy.deepcopy(custom_objects(path))
        change(ray_cluster(tree))
        assert schema_mistakes(tree, schemas) != []


# Slurm


def test_the_batch_script_is_sound() -> None:
    text = BATCH.read_text()
    subprocess.run(["bash", "-n", str(BATCH)], check=True)
    assert "export RAY_AUTH_MODE=token" in text
    assert "export ATEN_CPU_CAPABILITY=default" in text


def test_the_batch_script_asks_for_what_it_needs(tmp_path: Path) -> None:
    """Without a command, or without a token, it ends before anything starts; with both it calls srun as it should."""
    fakes = tmp_path / "bin"
    fakes.mkdir()
    for command, says in {"scontrol": "echo node-1", "srun": 'echo "$*" >>"$CALLS"; echo 10.0.0.1'}.items():
        (fakes / command).write_text(f"#!/bin/sh\n{says}\n")
        (fakes / command).chmod(0o755)
    calls, token = tmp_path / "calls", tmp_path / "token"
    environment = {
        "PATH": f"{fakes}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "CALLS": str(calls),
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RL_MOTION_VENV": str(tmp_path),
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(BATCH), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    no_command, no_token = run(), run("train", "demo")
    for ended, got in ((no_command, "no command"), (no_token, "no token")):
        assert ended.returncode == 2 and f"got {got}" in ended.stderr
    assert not calls.exists()
    token.write_text("a token")
    (fakes / "ray").symlink_to("/bin/true")
    assert run("train", "demo", "--out", "/shared/my runs").returncode == 0
    start = calls.read_text().splitlines()[-1]
    assert "ray symmetric-run --address 10.0.0.1:6379 --min-nodes 2 --num-cpus 8 --" in start
    assert start.endswith("-- env RAY_ADDRESS=10.0.0.1:6379 rl-motion train demo --out /shared/my runs")


# Linters


def test_shellcheck_finds_nothing() -> None:
    assert lint("shellcheck", "--shell=bash", text=BATCH.read_text()) == ""


def test_control_shellcheck_finds_an_unquoted_variable() -> None:
    text = BATCH.read_text()
    assert '"$SLURM_CPUS_PER_TASK"' in text
    assert "SC2086" in lint(
        "shellcheck", "--shell=bash", text=text.replace('"$SLURM_CPUS_PER_TASK"', "$SLURM_CPUS_PER_TASK")
    )


YAMLLINT = (
    "{extends: default, rules: {document-start: disable, line-length: {max: 120}, "
    "braces: {max-spaces-inside: 0}, comments: {min-spaces-from-content: 2}}}"
)


@pytest.mark.parametrize("path", [*LAUNCHER, *KUBERAY], ids=name)
def test_yamllint_finds_nothing(path: Path) -> None:
    assert lint("yamllint", "--strict", "-d", YAMLLINT, text=path.read_text()) == ""


def test_control_yamllint_finds_a_key_written_twice() -> None:
    assert "duplication" in lint("yamllint", "-d", YAMLLINT, text=f"{LAUNCHER[0].read_text()}max_workers: 3\n")


@pytest.mark.parametrize("path", DOCKERFILES, ids=name)
def test_hadolint_finds_nothing(path: Path) -> None:
    assert lint("hadolint", text=path.read_text()) == ""


@pytest.mark.parametrize("path", DOCKERFILES, ids=name)
def test_control_hadolint_finds_mistakes(path: Path) -> None:
    text = path.read_text()
    latest = re.sub(r"^FROM .*$", "FROM python", text, flags=re.MULTILINE)
    assert "DL3006" in lint("hadolint", text=latest)
    assert "DL3042" in lint("hadolint", text=text.replace("--no-cache-dir ", ""))


# Images


def image_mistakes(text: str) -> list[str]:
    lines = text.splitlines()
    checks = {
        "pinned": any(re.fullmatch(r"FROM python:\d+\.\d+\.\d+-slim-\w+", line) for line in lines),
        "unprivileged": [line for line in lines if line.startswith("USER ")] == ["USER 1000"],
        "token": "RAY_AUTH_MODE=token" in text,
        "health check": any(line.startswith("HEALTHCHECK ") for line in lines),
        "exact versions": "-c constraints.txt" in text,
    }
    return [check for check, passed in checks.items() if not passed]


@pytest.mark.parametrize("path", DOCKERFILES, ids=name)
def test_images_are_pinned_and_unprivileged(path: Path) -> None:
    assert image_mistakes(path.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        (r"^FROM .*$", "FROM python:3.11-slim", "pinned"),
        (r"^USER 1000$", "", "unprivileged"),
        (r"RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "token"),
        (r"^HEALTHCHECK.*$", "", "health check"),
        (r"-c constraints.txt ", "", "exact versions"),
    ],
)
def test_control_an_image_that_is_wrong(old: str, new: str, mistake: str) -> None:
    assert image_mistakes(re.sub(old, new, DOCKERFILES[0].read_text(), flags=re.MULTILINE)) == [mistake]


# Hardware only


def test_clusters_set_nothing_of_a_job() -> None:
    """A job runs unchanged on any of them."""
    sections = {"model", "policy", "prompts", "rewards", "algorithm", "train", "runtime", "evaluation", "tracking"}
    assert sections <= Job.model_fields.keys()
    for path in (*LAUNCHER, *KUBERAY):
        for tree in read(path):
            assert words_of_jobs(tree, sections) == set()
    assert "--set" not in "".join(path.read_text() for path in (*LAUNCHER, *KUBERAY, BATCH))
    assert words_of_jobs({"a": [{"train": {"iterations": 3}}]}, sections) == {"train"}


def test_roles_are_those_that_workers_are_placed_by() -> None:
    """The names in the files are the names in the code."""
    assert set(get_args(Role)) == ROLES
