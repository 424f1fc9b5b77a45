"""The upstream of the cold cases: a small registry over one image, that counts what it sends and can be slow.

It sends files with sendfile, so that it costs little beside the mirrors; a thread a connection, which is for tens of
connections. `rate` limits each connection, as a registry's object store does, or, if `shared`, all of them together, as a
slow link does. `pause` is what a blob's answer takes to begin, as behind a redirect.
"""

import os
import re
import socket
import threading
import time
from collections import Counter

_ANSWERS = {200: "OK", 206: "Partial Content", 404: "Not Found", 405: "Method Not Allowed", 416: "Range Not Satisfiable"}
_TARGET = re.compile(r"/v2/.+/(manifests|blobs)/([^/?]+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")
_PART = 128 * 1024
_UNLIMITED_PART = 8 * 1024 * 1024


class Origin:
    """Serves `image` on `port`. `gets` and `sent` count GETs and body bytes by digest."""

    def __init__(self, image, media_type):
        self.rate = None  # bytes a second
        self.shared = False  # for all connections together, not for each
        self.pause = 0.0  # seconds from the request of a blob to its answer
        self._lock = threading.Lock()
        self._objects = {}
        for digest in image.blobs:
            self._add(digest, image.folder / digest.removeprefix("sha256:"), "application/octet-stream")
        for reference in (image.digest, image.tag):
            self._add(reference, image.folder / "manifest.json", media_type, image.digest)
        self.reset()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self):
        """Nothing has been sent, and the link is free."""
        self.gets, self.sent = Counter(), Counter()
        self._free = 0.0  # when the shared link has sent what it was given

    def _add(self, reference, path, media_type, digest=None):
        self._objects[reference] = (os.open(path, os.O_RDONLY), path.stat().st_size, media_type, digest or reference)

    def _accept(self):
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as lines:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while request := lines.readline():
                    headers = {}
                    while (line := lines.readline().strip()):
                        name, _, value = line.decode("latin-1").partition(":")
                        headers[name.lower()] = value.strip()
                    method, path, version = request.decode("latin-1").split()
                    self._answer(connection, method, path, headers)
                    # nginx asks in HTTP/1.0, which closes unless it says otherwise.
                    if version == "HTTP/1.0" or headers.get("connection", "").lower() == "close":
                        return
            except OSError:
                pass  # a mirror that leaves in the middle is part of the cases

    def _answer(self, connection, method, path, headers):
        found = _TARGET.fullmatch(path.partition("?")[0])
        reference = found[2] if found else None
        if path.rstrip("/") == "/v2":
            return self._head(connection, 200, 2, "application/json", b"" if method == "HEAD" else b"{}")
        if method not in ("GET", "HEAD") or reference not in self._objects:
            return self._head(connection, 405 if method not in ("GET", "HEAD") else 404, 0, "application/json")
        file, size, media_type, digest = self._objects[reference]
        status, start, end, more = 200, 0, size, f"Docker-Content-Digest: {digest}\r\nAccept-Ranges: bytes\r\n"
        if wanted := _RANGE.match(headers.get("range", "")):
            start, end = int(wanted[1]), min(int(wanted[2] or size - 1) + 1, size)
            if start >= end:
                return self._head(connection, 416, 0, media_type, more=f"Content-Range: bytes */{size}\r\n")
            status, more = 206, more + f"Content-Range: bytes {start}-{end - 1}/{size}\r\n"
        if method == "GET" and self.pause and "/blobs/" in path:
            time.sleep(self.pause)
        self._head(connection, status, end - start, media_type, more=more)
        if method == "GET":
            with self._lock:
                self.gets[digest] += 1
            self._send(connection, file, start, end, digest)

    def _head(self, connection, status, length, media_type, body=b"", more=""):
        connection.sendall(f"HTTP/1.1 {status} {_ANSWERS[status]}\r\nContent-Type: {media_type}\r\n"
                           f"Docker-Distribution-Api-Version: registry/2.0\r\nContent-Length: {length}\r\n{more}\r\n"
                           .encode() + body)

    def _send(self, connection, file, start, end, digest):
        rate, began, at = self.rate, time.monotonic(), start
        while at < end:
            count = os.sendfile(connection.fileno(), file, at, min(_PART if rate else _UNLIMITED_PART, end - at))
            at += count
            with self._lock:
                self.sent[digest] += count
                self._free = max(self._free, time.monotonic() - 0.1) + (count / rate if rate else 0)
            # Against the clock of the whole, so that short sleeps that last longer do not add up.
            due = self._free if self.shared else began + (at - start) / rate if rate else 0
            if rate and (ahead := due - time.monotonic()) > 0:
                time.sleep(ahead)
