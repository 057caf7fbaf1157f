"""The review page's server: for this machine alone, and for whoever has the address that the command printed.

The standard library's server is enough for three paths, starts at once and depends on no framework that another
package brings. A foreign page in the same browser reaches nothing: every request needs the token that only the address
holds (so do other users of the machine), the Host header must be ours (DNS rebinding), and decisions come as JSON with
the token in a header, which no form can send. Captions are foreign text: the page sets them as text, and its policy
runs no script but its own.
"""

from __future__ import annotations

import errno
import hmac
import json
import logging
import secrets
import socketserver
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import ValidationError

from rl_motion.config import UserError
from rl_motion.prompts.review import Asked, Conflict, ReviewDesk, shown
from rl_motion.prompts.review_page import page
from rl_motion.prompts.table import Row

MOST_BYTES = 64 * 1024
"""Of a request's body: a text of 1,000 characters in JSON, with room."""
_PATIENCE_S = 30
_LOG = logging.getLogger(__name__)


class ReviewServer(ThreadingHTTPServer):
    """Serves a selection of a pool's prompts on 127.0.0.1; `with` it, then `serve_forever`."""

    daemon_threads = True

    def __init__(self, desk: ReviewDesk, rows: list[Row], texts: Mapping[str, str], port: int) -> None:
        """Listen.

        Args:
            desk: which decides.
            rows: what is looked at, in this order.
            texts: of captions and meta-motions by id.
            port: 0 takes a free one.

        Raises:
            UserError: the port is taken, or not ours to take.
        """
        self.desk = desk
        self.texts = texts
        self.token = secrets.token_urlsafe(24)
        self._ids = [row.id for row in rows]
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise UserError(
                f"got --port {port}, which cannot be used ({error.strerror}); want a free one; choose another, or end "
                "what listens there"
            ) from None

    def server_bind(self) -> None:
        """Bind without asking any name server who we are, as HTTPServer would."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is nothing; all else is logged."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            _LOG.exception("the review page failed")

    @property
    def address(self) -> str:
        """What to open."""
        return f"http://127.0.0.1:{self.server_port}/?token={self.token}"

    def selection(self) -> list[dict[str, Any]]:
        """The prompts as the page takes them, as they are now on the disk; raises UserError where there is no pool."""
        self.desk.refresh()
        return [shown(row, self.texts) for row in self.desk.followed(self._ids)]


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    server_version, sys_version = "rl-motion", ""
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        """The page, and its prompts."""
        try:
            self._check_host()
            path, query = self._address()
            if path == "/":
                self._check_token(parse_qs(query).get("token", [""])[0])
                nonce = secrets.token_urlsafe(16)
                start = {"token": self.server.token, "who": self.server.desk.who, "pool": str(self.server.desk.folder)}
                self._answer(HTTPStatus.OK, page(nonce, start).encode(), "text/html; charset=utf-8", nonce)
            elif path == "/prompts":
                self._check_token(self.headers.get("X-Token", ""))
                self._json(HTTPStatus.OK, {"prompts": self.server.selection()})
            else:
                raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        except _Refused as refusal:
            self._json(refusal.status, {"message": str(refusal)})
        except UserError as error:  # the pool was replaced by something else meanwhile
            self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"message": str(error)})
        except (ConnectionError, TimeoutError):  # the browser went away: nobody is there to answer
            raise
        except OSError as error:
            message = f"the pool cannot be read: {error.strerror or error}"
            self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"message": message})

    def do_POST(self) -> None:
        """A decision."""
        try:
            self._check_host()
            if self._address()[0] != "/decide":
                raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
            self._check_token(self.headers.get("X-Token", ""))
            self._decide(self._body())
        except _Refused as refusal:
            self._json(refusal.status, {"message": str(refusal)})

    def _decide(self, body: bytes) -> None:
        try:
            row = self.server.desk.decide(Asked.model_validate_json(body))
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the request"
            self._json(HTTPStatus.BAD_REQUEST, {"message": f"{where}: {first['msg'][:200]}"})
        except Conflict as conflict:
            last = conflict.row.history[-1] if conflict.row.history else None
            said = f"{last.who} {last.decision} it meanwhile" if last else "it was changed meanwhile"
            answer = {"message": f"{said}; look again, then decide", "row": shown(conflict.row, self.server.texts)}
            self._json(HTTPStatus.CONFLICT, answer)
        except UserError as error:
            self._json(HTTPStatus.UNPROCESSABLE_ENTITY, {"message": str(error)})
        except OSError as error:
            reason = "no room on the disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
            self._json(HTTPStatus.INSUFFICIENT_STORAGE, {"message": f"not saved: {reason}; mend it, then decide again"})
        else:
            self._json(HTTPStatus.OK, {"row": shown(row, self.server.texts)})

    def _address(self) -> tuple[str, str]:
        """Path and query of what is asked for."""
        try:
            asked = urlsplit(self.path)
        except ValueError:  # as of http://[/
            raise _Refused(HTTPStatus.BAD_REQUEST, "want an address") from None
        return asked.path, asked.query

    def _check_host(self) -> None:
        ours = {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in ours:
            raise _Refused(HTTPStatus.FORBIDDEN, "this page answers to 127.0.0.1 alone")

    def _check_token(self, token: str) -> None:
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise _Refused(HTTPStatus.FORBIDDEN, "open the whole address that `rl-motion prompts review` printed last")

    def _body(self) -> bytes:
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "want JSON")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "want Content-Length")
        if len(length) > 20 or int(length) > MOST_BYTES:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"want {MOST_BYTES} bytes at most")
        return self.rfile.read(int(length))

    def _json(self, status: HTTPStatus, content: Mapping[str, Any]) -> None:
        self._answer(status, json.dumps(content, ensure_ascii=False).encode(), "application/json")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str, nonce: str | None = None) -> None:
        own = "" if nonce is None else f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": f"default-src 'none'; {own}img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is for the address and the counts."""
