"""A server between client and server that does what networks do: refuse, break off, cut short, lose an answer."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

Fault = Callable[[str, str], str | None]
"""Told (method, path with query) of each request, in order; names a fault, or None for none:
"busy": 503 without asking the server; "dropped": the connection ends without an answer, the server was not asked;
"lost": the server was asked, its answer is lost; "cut": the answer ends in its middle; "gone": 404, no such upload,
without asking the server."""
_GONE = b"<?xml version='1.0'?><Error><Code>NoSuchUpload</Code><Message>It is over.</Message></Error>"


@contextlib.contextmanager
def faulty(endpoint: str, fault: Fault) -> Iterator[str]:
    """Passes requests on to `endpoint` ("host:port"); yields its own "host:port"."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = fault(self.command, self.path)
            if kind in {"busy", "gone"}:
                data = _GONE if kind == "gone" else b""
                self.send_response(404 if kind == "gone" else 503)
                self.send_header("Content-Type", "application/xml" if data else "text/plain")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                return
            if kind == "dropped":
                self.close_connection = True
                return
            upstream = http.client.HTTPConnection(endpoint, timeout=30)
            # The client has signed the host that it knows.
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            if kind == "lost":
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"connection", "transfer-encoding", "content-length", "date", "server"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if kind == "cut":
                self.close_connection = True
                data = data[: len(data) // 2]
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.do)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
