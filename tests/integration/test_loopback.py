"""A cluster that this package starts listens on loopback alone: it takes calls without a token."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from rl_motion.runtime import cluster

ROOT = Path(__file__).resolve().parents[2]
LINUX = pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="no /proc/net/tcp")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600), LINUX]

SCRIPT = """
import json, os, time
from pathlib import Path
import ray
{start}

@ray.remote
def work():
    return 1

ray.get(work.remote())
time.sleep(5)
parent = {{}}
for stat in Path("/proc").glob("[0-9]*/stat"):
    try:
        parent[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        pass
ours = {{os.getpid()}}
while more := {{pid for pid, up in parent.items() if up in ours}} - ours:
    ours |= more
inodes = set()
for pid in ours:
    for link in Path(f"/proc/{{pid}}/fd").glob("*"):
        try:
            inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            pass
found = []
for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{{table}}").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and words[9] in inodes:
            found.append(words[1].partition(":")[0])
print(json.dumps([len(ours), found]))
ray.shutdown()
"""


def address(digits: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """From the kernel's table: words of 32 bits, least significant byte first."""
    raw = b"".join(bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8))
    found = ipaddress.ip_address(raw)
    return getattr(found, "ipv4_mapped", None) or found


def listening(start: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Where the processes of a cluster listen that a process of its own starts in this way."""
    command = [sys.executable, "-c", SCRIPT.format(start=start)]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    processes, found = json.loads(ran.stdout.splitlines()[-1])
    assert processes > 3
    assert len(found) > 3
    return [address(digits) for digits in found]


def test_our_own_cluster_listens_on_loopback_alone() -> None:
    found = listening("from rl_motion.runtime.cluster import connect\nassert connect()")
    assert [str(where) for where in found if not where.is_loopback] == []


@pytest.mark.parametrize(("named", "own"), [("", True), (None, True), ("127.0.0.1:6379", False)])
def test_an_empty_address_names_no_cluster(named: str | None, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray takes it for none, and would start a cluster that listens everywhere."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: SimpleNamespace(close=int))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address=named))
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named is not None:
        monkeypatch.setenv("RAY_ADDRESS", named)
    assert cluster.connect() is own
    assert [options.get("_node_ip_address") for options in asked] == ["127.0.0.1" if own else None]


def test_control_ray_by_itself_does_not() -> None:
    """Negative control: also where it is told 127.0.0.1, which Ray replaces."""
    found = listening("ray.init(address='local', _node_ip_address='127.0.0.1', include_dashboard=False)")
    if all(where.is_loopback for where in found):
        pytest.skip("this machine has no other address")
    assert any(not where.is_loopback for where in found)
