"""The dashboard's web server: read only, for whoever has its token, and not for pages of other sites that a browser is led to."""

from __future__ import annotations

import hashlib
import http.cookies
import importlib.resources
import ipaddress
import json
import secrets
import socket
import sys
import traceback
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from ptft_jax.dashboard.views import NotThere, Views
from ptft_jax.errors import UserError

_ASSETS = {"/app.js": "text/javascript", "/look.css": "text/css"}
_TYPES = "; charset=utf-8"
_TRIED = 50  # ports after one that is in use
# Nothing is loaded from anywhere else, and no other page may show this one. Styles in SVGs are inline.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


class Server(ThreadingHTTPServer):
    """Serves the views of a folder at `url`.

    Attributes:
      token: who asks has to have it, in the query, as the cookie that the page sets, or as "Authorization: Bearer TOKEN".
      remote: whether other machines may ask.
    """

    daemon_threads = True

    def __init__(self, views: Views, host: str, port: int, *, remote: bool = False):
        """Raises UserError for a host that is not this machine's own, but with `remote`, and for a port that is in use."""
        self.views, self.remote, self.token = views, remote, secrets.token_urlsafe(24)
        address = _address(host)
        if not address.is_loopback and not remote:
            raise UserError(f"--host={host}: others could reach it: --host=127.0.0.1, or --allow_remote")
        self.address_family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        try:
            super().__init__((str(address), port), _Handler)
        except OSError as e:
            raise UserError(f"--port={port}: {e.strerror}{self._free(str(address), port)}") from e

    def server_bind(self) -> None:
        """As `http.server` does, but asks no name server for this machine's name."""
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where it is, with the token."""
        host = self.server_name if self.address_family == socket.AF_INET else f"[{self.server_name}]"
        return f"http://{host}:{self.server_port}/?token={self.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says what went wrong, but that somebody went away."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            traceback.print_exc()

    def _free(self, address: str, port: int) -> str:
        for other in range(port + 1, min(port + _TRIED, 65536)):
            with socket.socket(self.address_family) as tried:
                try:
                    tried.bind((address, other))
                except OSError:
                    continue
                return f": --port={other} is free, --port=0 takes any"
        return ": --port=0 takes any that is free"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        raise UserError(f"--host={host}: expected an address of this machine, such as 127.0.0.1 or ::1") from None


class _Handler(BaseHTTPRequestHandler):
    protocol_version, server_version, sys_version, timeout = "HTTP/1.1", "ptft", "", 30.0

    @property
    def _served(self) -> Server:
        return cast(Server, self.server)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of each request."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        if not self._host_is_ours():
            self._fail(HTTPStatus.FORBIDDEN, "this name is not the dashboard's: use the address that it printed")
            return
        if not self._may(query):
            self._fail(
                HTTPStatus.FORBIDDEN, "the token is missing or another's: use the address that the dashboard printed"
            )
            return
        try:
            self._answer(url.path, query)
        except NotThere as e:
            self._fail(HTTPStatus.NOT_FOUND, str(e))
        except UserError as e:
            self._fail(HTTPStatus.BAD_REQUEST, str(e))
        except ConnectionError:
            raise
        except Exception as e:  # a folder that changes while it is read, or a file that is no experiment's
            traceback.print_exc()
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(e).__name__}: {e}")

    def _answer(self, path: str, query: dict[str, list[str]]) -> None:
        views = self._served.views

        def one(name: str, default: str | None = None) -> str:
            if name not in query and default is None:
                raise UserError(f"{name} is missing")
            return query.get(name, [default or ""])[0]

        asked: dict[str, Callable[[], Any]] = {
            "/api/runs": lambda: views.runs(one("where", ""), one("sort", "-changed")),
            "/api/run": lambda: views.run(one("name")),
            "/api/curves": lambda: views.curves(query.get("name", [])),
            "/api/experiments": lambda: {"folder": str(views.folder), "experiments": views.experiments()},
            "/api/experiment": lambda: views.experiment(one("name")),
            "/api/log": lambda: {"log": views.log(one("experiment"), one("node"))},
            "/api/machine": views.machine,
        }
        if path in asked:
            text = json.dumps(_finite(asked[path]()), ensure_ascii=False, separators=(",", ":"))
            self._send(text.encode("utf-8", "replace"), "application/json")
        elif path == "/report":
            self._send(views.page(one("experiment")), "text/html", policy=_REPORT_POLICY)
        elif path == "/":
            self._send(_asset("index.html"), "text/html", cookie=True)
        elif path in _ASSETS:
            self._send(_asset(path[1:]), _ASSETS[path])
        else:
            raise NotThere(f"nothing at {path}")

    def _host_is_ours(self) -> bool:
        """Whether it was asked for by an address, or as localhost: a name that somebody else made lead here is neither."""
        try:
            name = urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            if self._served.remote and name == socket.gethostname().lower():
                return True
            return _address(name).is_loopback or self._served.remote  # at any port: ssh may lead another one here
        except (UserError, ValueError):
            return False

    @property
    def _cookie(self) -> str:
        return f"ptft_{self._served.server_port}"  # cookies are the same for all ports

    def _may(self, query: dict[str, list[str]]) -> bool:
        try:
            cookies = http.cookies.SimpleCookie(self.headers.get("Cookie", ""))
        except http.cookies.CookieError:
            cookies = http.cookies.SimpleCookie()
        kind, _, word = self.headers.get("Authorization", "").partition(" ")
        given = [*query.get("token", []), *([cookies[self._cookie].value] if self._cookie in cookies else [])]
        given += [word.strip()] if kind == "Bearer" else []
        token = self._served.token.encode()
        return any([secrets.compare_digest(one.encode("utf-8", "replace"), token) for one in given])

    def _send(self, body: bytes, kind: str, *, policy: str = _POLICY, cookie: bool = False) -> None:
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        known = self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK)
        self.send_header("ETag", tag)
        if cookie:
            self.send_header("Set-Cookie", f"{self._cookie}={self._served.token}; Path=/; HttpOnly; SameSite=Strict")
        if known:
            self.end_headers()
        else:
            self._end(body, kind, policy)

    def _fail(self, status: HTTPStatus, message: str) -> None:
        self.send_response(status)
        self._end(json.dumps({"error": message}).encode(), "application/json", _POLICY)

    def _end(self, body: bytes, kind: str, policy: str) -> None:
        headers = {
            "Content-Type": kind + _TYPES,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _asset(name: str) -> bytes:
    return (importlib.resources.files("ptft_jax.dashboard") / "assets" / name).read_bytes()


def _finite(value: Any) -> Any:
    """A value with None for what is not finite, which JSON has not."""
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
