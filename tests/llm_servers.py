"""OpenAI-compatible endpoints on loopback, for tests: what they answer is a function, how they fail too."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Asked:
    """A request that an endpoint saw; `turn` counts those about the same data, from 0; `at` is monotonic seconds."""

    kind: str
    data: dict[str, Any]
    turn: int
    messages: list[dict[str, str]]
    body: dict[str, Any]
    authorization: str
    at: float

    @property
    def text(self) -> str:
        return str(next(iter(self.data.values())))


@dataclass
class Reply:
    """An HTTP answer; `content` stands for a completion that says this, `raw` is a body as it is."""

    content: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    error: dict[str, Any] | None = None
    after_s: float = 0.0
    reset: bool = False
    drip_s: float = 0.0
    """Between two bytes of the body."""


Script = Callable[[Asked], str | Reply]
"""What an endpoint answers: the model's words, or more."""


class Endpoint:
    """What it saw, and how many requests it worked on at once."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self.url = ""

    def see(self, body: dict[str, Any], authorization: str) -> Asked:
        task, _, data = body["messages"][1]["content"].rpartition("\ndata: ")
        kind = re.search(r'"(meta_motions|text|plausible)":', task.rpartition("Answer:")[2])
        assert kind, task
        kinds = {"meta_motions": "decompose", "text": "compose", "plausible": "judge"}
        read = json.loads(data)
        with self._lock:
            turn = sum(before.data == read for before in self.asked)
            asked = Asked(kinds[kind.group(1)], read, turn, body["messages"], body, authorization, time.monotonic())
            self.asked.append(asked)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        return asked

    def seen(self) -> None:
        with self._lock:
            self._at_once -= 1


def completion(content: str) -> bytes:
    """A chat completion's body: ten tokens read, five written."""
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


@contextmanager
def serving(script: Script) -> Iterator[Endpoint]:
    """An endpoint that runs until the block ends."""
    endpoint = Endpoint(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked = endpoint.see(body, self.headers["authorization"] or "")
            try:
                said = endpoint.script(asked)
                reply = Reply(said) if isinstance(said, str) else said
                endpoint.closing.wait(reply.after_s)
            finally:
                endpoint.seen()
            self.send(reply)

        def send(self, reply: Reply) -> None:
            if reply.reset:
                # Closing with a linger of zero sends RST instead of FIN.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            content = completion(reply.content) if reply.status == 200 else json.dumps({"error": reply.error}).encode()
            content = content if reply.raw is None else reply.raw
            self.send_response(reply.status)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if reply.drip_s:
                for byte in content:
                    self.wfile.write(bytes([byte]))
                    endpoint.closing.wait(reply.drip_s)
            else:
                self.wfile.write(content)

        def finish(self) -> None:
            with suppress(OSError):  # a client that gave up
                super().finish()

        def log_message(self, format: str, *args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None: ...

    server = Server(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield endpoint
    finally:
        endpoint.closing.set()
        server.shutdown()
        server.server_close()


def right(asked: Asked) -> str:
    """What a good model says: captions are taken apart at `, then `."""
    if asked.kind == "decompose":
        clauses = asked.data["caption"].split(", then ")
        metas = [clause if clause.startswith("a person") else f"a person {clause}" for clause in clauses]
        return json.dumps({"decomposable": len(metas) > 1, "meta_motions": metas})
    if asked.kind == "compose":
        first, *more = asked.data["meta_motions"]
        text = ", then ".join([first, *(meta.removeprefix("a person ") for meta in more)])
        return json.dumps({"text": f"{text} {asked.data['detail']}".strip()})
    plausible = "sits while jumping" not in asked.data["text"]
    return json.dumps({"plausible": plausible, "reason": "" if plausible else "nobody sits while jumping"})


def tiny_llama(folder: Path, seed: int = 0) -> Path:
    """A random language model of a few kB with a byte-level tokenizer and a chat template: it talks garbage."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytes_ = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, **special)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(alphabet),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=16384,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
