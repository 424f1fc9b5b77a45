#!/usr/bin/env python3
"""The client of large cached blobs: it asks again and again, and the kernel drops the bodies instead of copying them.

    drain.py PORT PATH CONNECTIONS SECONDS      prints: answers, bytes of bodies, seconds

A client that copies what it receives needs about as much CPU time as a server with sendfile, on the same cores: what is
measured then is the client. With MSG_TRUNC a TCP socket takes bytes off its queue and copies nothing, so that one thread
keeps up with any server here. That the bytes are the right ones is another pass's matter.
"""

import select
import socket
import sys
import time

ROOM = memoryview(bytearray(4 << 20))


class Connection:
    """One request after another."""

    def __init__(self, port, request):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request, self._head, self._left = request, b"", 0
        self.answers = self.bytes = 0
        self.socket.sendall(request)
        self.socket.setblocking(False)

    def readable(self):
        """Takes what is there, once."""
        if self._left:
            count = self.socket.recv_into(ROOM, min(self._left, len(ROOM)), socket.MSG_TRUNC)
            if count == 0:
                raise OSError("the connection was closed in a body")
        else:
            if not (part := self.socket.recv(4096)):
                raise OSError("the connection was closed before an answer")
            self._head += part
            head, end, begun = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                raise OSError(f"answered {head.splitlines()[0].decode()}")
            length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))
            self._head, self._left, count = b"", length, len(begun)
        self._left -= count
        self.bytes += count
        if not self._left:
            self.answers += 1
            self.socket.send(self._request)


def main():
    port, path, count, seconds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    poll, connections = select.epoll(), {}
    for _ in range(count):
        connection = Connection(port, request)
        connections[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
    began = time.monotonic()
    before = sum(connection.bytes for connection in connections.values())
    while (now := time.monotonic()) < began + seconds:
        for file, _ in poll.poll(began + seconds - now):
            connections[file].readable()
    took = time.monotonic() - began
    received = sum(connection.bytes for connection in connections.values()) - before
    print(sum(connection.answers for connection in connections.values()), received, took)


if __name__ == "__main__":
    main()
