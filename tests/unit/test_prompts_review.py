"""The review: decisions are on the disk before they are answered, with who and when; nobody else's page gets in."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_motion.config import UserError
from rl_motion.prompts import review
from rl_motion.prompts import table as pool_table
from rl_motion.prompts.decisions import excluded_key
from rl_motion.prompts.pool import prompt_id
from rl_motion.prompts.reading import meaning
from rl_motion.prompts.review import Asked, Conflict, ReviewDesk, chosen, known_texts
from rl_motion.prompts.review_server import MOST_BYTES, ReviewServer
from rl_motion.prompts.table import BUILD, FILE, Row, read_table, write_table
from tests.pools import TEXTS, decided, pool_in, pool_row, serving

WALK, WAVE, SIT = (prompt_id(text, 96) for text in TEXTS)
Answer = tuple[int, dict[str, Any]]
_PATIENCE_S = 240.0
"""A decision is on the disk before it is answered, which a busy machine makes slow."""


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    rows = [pool_row(text) for text in TEXTS]
    write_table(tmp_path / "pool", rows, {"excluded": [excluded_key(meaning("a person is running in a circle"))]})
    return tmp_path / "pool"


@pytest.fixture
def server(pool: Path) -> Iterator[ReviewServer]:
    with serving(pool, "Ann") as one:
        yield one


def send(
    server: ReviewServer | Command,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str | None] | None = None,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """As the page does, but for `headers`; None leaves one out."""
    ours = {"X-Token": server.token, "Content-Type": "application/json" if body is not None else None}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=_PATIENCE_S)
    try:
        connection.request(method, path, body, {k: v for k, v in (ours | dict(headers or {})).items() if v is not None})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def decide(server: ReviewServer | Command, decision: str, prompt: str, seen: int = 0, **more: str) -> Answer:
    body = json.dumps({"id": prompt, "seen": seen, "decision": decision, **more}).encode()
    status, _, content = send(server, "POST", "/decide", body)
    return status, json.loads(content)


def test_decisions_are_recorded_with_who_and_when(server: ReviewServer, pool: Path) -> None:
    assert decide(server, "accept", WALK)[0] == decide(server, "reject", WAVE)[0] == 200
    status, answer = decide(server, "edit", SIT, text="  a man  hops twice ")
    row = read_table(pool).rows[2]
    assert (status, answer["row"]["id"], answer["row"]["text"]) == (200, row.id, "a man hops twice")
    assert (row.id, row.review) == (prompt_id("a man hops twice", 96), "edited")
    assert row.tokens == ("a/DET", "man/NOUN", "hop/VERB", "twice/ADV")
    assert [r.review for r in read_table(pool).rows] == ["accepted", "rejected", "edited"]
    assert decided(row) == [("edited", "Ann", TEXTS[2])]
    assert [r.history[0].when[14:16] for r in read_table(pool).rows] == ["00", "01", "02"]


def test_undo_goes_back_step_by_step_and_is_recorded(server: ReviewServer, pool: Path) -> None:
    before = read_table(pool).rows[0]
    edited = decide(server, "edit", WALK, text="a man hops")[1]["row"]["id"]
    decide(server, "reject", edited, seen=1)
    assert decide(server, "undo", edited, seen=2)[1]["row"]["review"] == "edited"
    status, answer = decide(server, "undo", edited, seen=3)
    row = read_table(pool).rows[0]
    assert (status, answer["row"]["id"], row.text, row.review) == (200, WALK, before.text, "unreviewed")
    told = [("edited", before.text), ("rejected", ""), ("undone", ""), ("undone", "a man hops")]
    assert [(decision, text) for decision, _, text in decided(row)] == told
    status, answer = decide(server, "undo", WALK, seen=4)
    assert status == 422 and "nothing was decided" in answer["message"]


def test_the_same_decision_again_is_not_repeated(server: ReviewServer, pool: Path) -> None:
    decide(server, "accept", WALK)
    content = (pool / FILE).read_bytes()
    assert decide(server, "accept", WALK, seen=1)[0] == 200
    assert (pool / FILE).read_bytes() == content


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "want 1 to 1000 printable"),
        (" \n ", "want 1 to 1000 printable"),
        ("x" * 1001, "want 1 to 1000 printable"),
        ("a man\x00 hops", "want 1 to 1000 printable"),
        ("a man \u202e hops", "want 1 to 1000 printable"),
        ("...", "no word"),
        (TEXTS[0], "the text as it was"),
        (TEXTS[1], "the text of row 2 too"),
        ("A Man waves while walking.", f"means the same as {TEXTS[1]!r} in row 2"),
        ("somebody is sitting down slowly", "row 3"),
        ("a man runs in a circle", "told to --exclude"),
    ],
)
def test_an_edit_is_checked_as_prompts_are(server: ReviewServer, pool: Path, text: str, said: str) -> None:
    content = (pool / FILE).read_bytes()
    status, answer = decide(server, "edit", WALK, text=text)
    assert status == 422 and said in answer["message"]
    assert (pool / FILE).read_bytes() == content


def test_a_slip_of_the_pen_is_mended_also_where_the_pool_says_it_twice(tmp_path: Path) -> None:
    pool_in(tmp_path, pool_row(TEXTS[0]), pool_row(TEXTS[0].upper()))
    desk = ReviewDesk(tmp_path, "Ann")
    desk.prepare()
    assert desk.decide(Asked(id=WALK, seen=0, decision="edit", text=f"{TEXTS[0]}.")).text == f"{TEXTS[0]}."


def test_two_tabs_and_two_people_never_decide_past_one_another(server: ReviewServer, pool: Path) -> None:
    assert decide(server, "accept", WALK)[0] == 200
    status, answer = decide(server, "reject", WALK)  # a tab that shows it unreviewed
    assert (status, answer["row"]["review"]) == (409, "accepted") and "Ann accepted it meanwhile" in answer["message"]
    with serving(pool, "Ben") as other:
        edited = decide(other, "edit", WAVE, text="a man hops")[1]["row"]["id"]
        assert decide(server, "reject", SIT)[0] == 200  # Ann's server has to read again first
        status, answer = decide(server, "reject", WAVE)  # which is there no longer
        assert (status, answer["row"]["id"]) == (409, edited) and "Ben edited" in answer["message"]
    assert [decided(row) for row in read_table(pool).rows] == [
        [("accepted", "Ann", "")],
        [("edited", "Ben", TEXTS[1])],
        [("rejected", "Ann", "")],
    ]


def test_the_same_decision_again_is_judged_by_what_is_on_the_disk(pool: Path) -> None:
    ann, ben = ReviewDesk(pool, "Ann"), ReviewDesk(pool, "Ben")
    ann.decide(Asked(id=WALK, seen=0, decision="accept"))
    ben.decide(Asked(id=WALK, seen=1, decision="reject"))
    with pytest.raises(Conflict) as conflict:
        ann.decide(Asked(id=WALK, seen=1, decision="accept"))
    assert conflict.value.row.review == "rejected"


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    rows = [pool_row(f"a person walks {n} steps") for n in range(24)]
    pool_in(tmp_path, *rows)
    with serving(tmp_path, "Ann") as ann, serving(tmp_path, "Ben") as ben:

        def work(server: ReviewServer, mine: list[Row]) -> None:
            for row in mine:
                assert decide(server, "accept", row.id)[0] == 200

        with ThreadPoolExecutor(4) as people:
            works = [people.submit(work, (ann, ben)[n % 2], rows[n::4]) for n in range(4)]
        for done in works:
            done.result()
    assert [len(row.history) for row in read_table(tmp_path).rows] == [1] * 24


def test_the_page_and_its_prompts(server: ReviewServer, pool: Path) -> None:
    status, headers, body = send(server, "GET", f"/?token={server.token}", headers={"X-Token": None})
    assert status == 200 and server.token.encode() in body
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", headers["Content-Security-Policy"])
    assert nonce and body.count(f'nonce="{nonce[1]}"'.encode()) == 2
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
    assert nonce[0] != send(server, "GET", f"/?token={server.token}")[1]["Content-Security-Policy"]
    assert "innerHTML" not in body.decode() and not re.search(r"(src|href)=\"(?!data:,)", body.decode())
    prompts = json.loads(send(server, "GET", "/prompts")[2])["prompts"]
    assert [one["text"] for one in prompts] == list(TEXTS)
    assert (prompts[0]["length"], prompts[0]["seconds"], prompts[0]["metas"]) == (96, 4.8, ["m-walk", "m-jump"])
    decide(server, "edit", WALK, text="a man hops")
    reloaded = json.loads(send(server, "GET", "/prompts")[2])["prompts"]
    assert [one["text"] for one in reloaded] == ["a man hops", *TEXTS[1:]]


def test_texts_of_meta_motions_are_shown_where_they_are_known(pool: Path) -> None:
    assert known_texts(pool) == {}
    table = pa.table({"id": ["m-walk"], "text": ["a person walks forward"], "frames": [60]})
    pq.write_table(table, pool / BUILD / "metas.parquet")
    (pool / BUILD / "captions.parquet").write_bytes(b"half")
    assert known_texts(pool) == {"m-walk": "a person walks forward"}
    dates = pa.table({"id": pa.array([2**62], pa.date64()), "text": ["a man"]})  # no year that Python knows
    pq.write_table(dates, pool / BUILD / "captions.parquet")
    with serving(pool, "Ann") as server:
        prompts = json.loads(send(server, "GET", "/prompts")[2])["prompts"]
    assert prompts[0]["metas"] == ["a person walks forward", "m-jump"]


@pytest.mark.parametrize("token", [None, "", "wrong", "é"])
def test_nothing_without_the_token(server: ReviewServer, pool: Path, token: str | None) -> None:
    content = (pool / FILE).read_bytes()
    body = json.dumps({"id": WALK, "seen": 0, "decision": "accept"}).encode()
    assert send(server, "POST", "/decide", body, {"X-Token": token})[0] == 403
    assert send(server, "POST", f"/decide?token={server.token}", body, {"X-Token": token})[0] == 403
    assert send(server, "GET", "/prompts", headers={"X-Token": token})[0] == 403
    status, _, page = send(server, "GET", "/" if token is None else f"/?token={token.encode().hex()}")
    assert status == 403 and server.token.encode() not in page
    assert (pool / FILE).read_bytes() == content


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "[::1]:{port}"]
)
def test_nothing_for_another_host(server: ReviewServer, host: str) -> None:
    headers = {"Host": host.format(port=server.server_port)}
    body = json.dumps({"id": WALK, "seen": 0, "decision": "accept"}).encode()
    assert send(server, "POST", "/decide", body, headers)[0] == 403
    assert send(server, "GET", f"/?token={server.token}", headers=headers)[0] == 403
    assert send(server, "GET", "/prompts", headers={"Host": f"localhost:{server.server_port}"})[0] == 200


def test_it_listens_on_loopback_alone(server: ReviewServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/decide", 404), ("GET", "/../pool", 404), ("GET", f"/{FILE}", 404), ("POST", "/", 404),
     ("POST", "/prompts", 404), ("PUT", "/decide", 501), ("DELETE", "/", 501), ("OPTIONS", "/decide", 501)],
)  # fmt: skip
def test_nothing_else_is_there(server: ReviewServer, method: str, path: str, status: int) -> None:
    assert send(server, method, path, b"{}")[0] == status


GOOD = json.dumps({"id": WALK, "seen": 0, "decision": "accept"}).encode()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"not json", {}, 400),
        (b"[" * 60_000, {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"[]", {}, 400),
        (b'{"id": "%s", "seen": 0}' % WALK.encode(), {}, 400),
        (b'{"id": 3, "seen": 0, "decision": "accept"}', {}, 400),
        (b'{"id": "a", "seen": -1, "decision": "accept"}', {}, 400),
        (b'{"id": "a", "seen": 0, "decision": "delete"}', {}, 400),
        (b'{"id": "a", "seen": 0, "decision": "accept", "who": "Eve"}', {}, 400),
        (b'{"id": "a", "seen": 0, "decision": "edit", "text": "\\ud800"}', {}, 400),
        (b'{"id": "nobody", "seen": 0, "decision": "accept"}', {}, 422),
        (GOOD, {"Content-Type": "text/plain"}, 415),
        (GOOD, {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (GOOD, {"Content-Length": None, "Transfer-Encoding": "chunked"}, 411),
        (b"", {"Content-Length": str(MOST_BYTES + 1)}, 413),
        (b"", {"Content-Length": "9" * 5000}, 413),
        (b"", {"Content-Length": "-1"}, 411),
        (b"", {"Content-Length": "²"}, 411),
    ],
)
def test_requests_that_are_none(
    server: ReviewServer, pool: Path, body: bytes, headers: dict[str, str | None], status: int
) -> None:
    content = (pool / FILE).read_bytes()
    lines = {"Host": f"127.0.0.1:{server.server_port}", "X-Token": server.token, "Content-Type": "application/json"}
    lines |= {"Content-Length": str(len(body))} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    with socket.create_connection(("127.0.0.1", server.server_port), 10) as line:
        line.sendall(f"POST /decide HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
        answer = http.client.HTTPResponse(line)
        answer.begin()
        assert answer.status == status
        assert json.loads(answer.read())["message"]
    assert (pool / FILE).read_bytes() == content
    assert decide(server, "accept", WALK)[0] == 200


def test_what_cannot_be_saved_is_not_decided(server: ReviewServer, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pool_table, "write_synced", full)
        status, answer = decide(server, "accept", WALK)
        assert status == 507 and "no room" in answer["message"]
    assert [one["review"] for one in json.loads(send(server, "GET", "/prompts")[2])["prompts"]] == ["unreviewed"] * 3
    assert decide(server, "accept", WALK)[0] == 200
    (pool / FILE).write_bytes(b"something else")
    status, answer = decide(server, "accept", WAVE)
    assert status == 422 and "want a pool in Parquet" in answer["message"]
    assert send(server, "GET", "/prompts")[0] == 500


def test_what_is_no_address_and_what_cannot_be_read_is_answered(
    server: ReviewServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for method in ("GET", "POST"):
        with socket.create_connection(("127.0.0.1", server.server_port), 10) as line:
            line.sendall(f"{method} http://[/ HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode())
            assert line.recv(12) == b"HTTP/1.0 400"

    def locked(*_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(review, "is_current", locked)
    status, _, body = send(server, "GET", "/prompts")
    assert (status, json.loads(body)["message"]) == (500, "the pool cannot be read: Permission denied")
    assert not caplog.records


def test_a_port_that_is_taken(server: ReviewServer, pool: Path) -> None:
    with pytest.raises(UserError, match=f"got --port {server.server_port}, which cannot be used"):
        ReviewServer(ReviewDesk(pool, "Ben"), [], {}, server.server_port)


def test_who_decides_has_a_name(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ReviewDesk(pool, " Ann Ölsen ").who == "Ann Ölsen"
    for name in ("", "  ", "a\nb", "x" * 101, "\x1b[31m"):
        with pytest.raises(UserError, match="give --who NAME"):
            ReviewDesk(pool, name)

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(review.getpass, "getuser", nobody)
    assert review.login_name() == ""


def test_a_sample_is_the_same_however_far_the_review_is(tmp_path: Path) -> None:
    rows = [pool_row(f"a person walks {n} steps") for n in range(50)]
    pool_in(tmp_path, *rows)
    sample = chosen(rows, 10, seed=3)
    assert len({row.id for row in sample}) == 10 and sample != chosen(rows, 10, seed=4)
    assert chosen(rows) == rows and len(chosen(rows, 1000)) == 50
    desk = ReviewDesk(tmp_path, "Ann")
    for row in sample[:4]:
        desk.decide(Asked(id=row.id, seen=0, decision="accept"))
    assert chosen(desk.rows, 10, seed=3, only_unreviewed=True) == sample[4:]
    assert desk.counts() == {"unreviewed": 46, "accepted": 4, "rejected": 0, "edited": 0}


def test_a_prompt_that_another_took_the_text_of_cannot_be_undone_to_it(pool: Path) -> None:
    desk = ReviewDesk(pool, "Ann")
    edited = desk.decide(Asked(id=WALK, seen=0, decision="edit", text="a man hops"))
    desk.decide(Asked(id=WAVE, seen=0, decision="edit", text=TEXTS[0]))
    with pytest.raises(UserError, match="the text of row 2 too"):
        desk.decide(Asked(id=edited.id, seen=1, decision="undo"))
    with pytest.raises(Conflict):
        desk.decide(Asked(id=SIT, seen=1, decision="undo"))


def test_a_pool_that_was_replaced_meanwhile_is_read_again(server: ReviewServer, pool: Path) -> None:
    table = read_table(pool)
    write_table(pool, [table.rows[2], pool_row("a man hops")], {}, table)
    assert decide(server, "accept", SIT)[0] == 200
    assert decide(server, "accept", WALK)[0] == 422
    assert [one["text"] for one in json.loads(send(server, "GET", "/prompts")[2])["prompts"]] == [TEXTS[2]]


PROGRAM = "import typer, sys; from rl_motion.cli_review import review; typer.run(review)"


class Command:
    """The command in a process of its own."""

    def __init__(self, pool: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.server_port = probe.getsockname()[1]
        command = [sys.executable, "-c", PROGRAM, str(pool), "--port", str(self.server_port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"token=(\S+)", line)
        assert found, (line, self.process.communicate()[1])
        self.token = found[1]

    def end(self, how: signal.Signals) -> tuple[int, str, str]:
        os.kill(self.process.pid, how)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


def test_kill_9_after_a_decision_loses_nothing(pool: Path) -> None:
    command = Command(pool, "--who", "Ann")
    assert decide(command, "reject", WAVE)[0] == 200
    assert command.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert [decided(row) for row in read_table(pool).rows] == [[], [("rejected", "Ann", "")], []]


def test_ctrl_c_ends_with_counts_and_how_to_go_on(pool: Path) -> None:
    command = Command(pool, "--who", "Ann")
    decide(command, "accept", WALK)
    ReviewDesk(pool, "Ben").decide(Asked(id=SIT, seen=0, decision="reject"))
    with socket.create_connection(("127.0.0.1", command.server_port)):  # a browser that keeps a connection open
        code, out, err = command.end(signal.SIGINT)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "reviewed 2 of 3: 1 accepted, 0 edited, 1 rejected",
        f"go on: rl-motion prompts review {pool} --only-unreviewed",
    ]
