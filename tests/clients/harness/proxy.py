"""A reverse proxy that counts: who asked for what, with which answer, and how many body bytes went through.

Between mirror and registry it proves what the mirror fetched; between client and mirror, what it served. It can be slow
(`rate`) and it can be gone (`stop`), so that "the upstream is down" is one call.
"""

import http.client
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .process import free_port

_PART = 64 * 1024
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/")


@dataclass
class Exchange:
    """One request and its answer; `bytes` counts the body as far as it was handed on."""
    method: str
    path: str
    status: int = 0
    start: int = 0
    bytes: int = 0

    def kind(self):
        found = re.search(r"/(manifests|blobs)/[^/]+$|/(tags)/list$|/(referrers)/", self.path.partition("?")[0])
        return next(filter(None, found.groups()), None) if found else None

    def reference(self):
        return self.path.partition("?")[0].rpartition("/")[2]


class CountingProxy:
    """Forwards `127.0.0.1:port` to `127.0.0.1:target`."""

    def __init__(self, target):
        self.target = target
        self.port = free_port()
        self.rate = None  # bytes a second for each connection
        self.exchanges = []
        self._sockets = set()
        self._server = None
        self.start()

    def start(self):
        """Listens, on the same port as before."""
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.proxy = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        """From now on connections are refused, and the open ones are closed."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for open_socket in list(self._sockets):
            try:
                open_socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def reset(self):
        self.exchanges = []

    def count(self, method, kind):
        """How many requests of this method were for `manifests`, `blobs`, `tags` or `referrers`."""
        return sum(exchange.method == method and exchange.kind() == kind for exchange in self.exchanges)

    def blob_gets(self):
        """digest → number of GETs."""
        return Counter(each.reference() for each in self.exchanges if each.method == "GET" and each.kind() == "blobs")

    def spans(self, digest):
        """The `(start, end)` of every body that was handed on for this blob, in order of their start."""
        return sorted((each.start, each.start + each.bytes) for each in self.exchanges
                      if each.method == "GET" and each.kind() == "blobs" and each.reference() == digest and each.bytes)

    def body_bytes(self):
        return sum(each.bytes for each in self.exchanges)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # a peer that was killed in the middle is what many tests are about


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass  # a client that tries TLS first is no news

    def setup(self):
        super().setup()
        self.server.proxy._sockets.add(self.request)

    def finish(self):
        self.server.proxy._sockets.discard(self.request)
        super().finish()

    def do_GET(self):
        self._forward()

    def do_HEAD(self):
        self._forward()

    def _forward(self):
        proxy = self.server.proxy
        exchange = Exchange(self.command, self.path)
        proxy.exchanges.append(exchange)
        onward = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=120)
        try:
            onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    onward.putheader(name, value)
            onward.endheaders()
            answer = onward.getresponse()
            exchange.status = answer.status
            ranged = _CONTENT_RANGE.match(answer.getheader("Content-Range") or "")
            exchange.start = int(ranged[1]) if ranged else 0
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            chunked = self.command == "GET" and answer.getheader("Content-Length") is None
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if self.command == "GET":
                self._hand_on(answer, exchange, chunked, proxy)
        except http.client.IncompleteRead:
            self.close_connection = True  # what is short here must be short there
        finally:
            onward.close()

    def _hand_on(self, answer, exchange, chunked, proxy):
        while part := answer.read(_PART):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            exchange.bytes += len(part)
            if proxy.rate:
                time.sleep(len(part) / proxy.rate)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        elif exchange.bytes < int(answer.getheader("Content-Length")):
            self.close_connection = True
