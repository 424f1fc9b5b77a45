#!/usr/bin/env python3
"""One pull of a blob as a container engine does it: every byte is hashed as it arrives.

    pull.py ADDRESS PATH      prints: seconds from connecting to the last byte, bytes, sha256

A client that does not hash ends sooner than any engine does. It has one thread, reads 256 KiB at most at a time, and
understands answers with a Content-Length only.
"""

import hashlib
import socket
import sys
import time

ROOM = memoryview(bytearray(256 << 10))


def main():
    address, path = sys.argv[1:]
    host, _, port = address.rpartition(":")
    found, began = hashlib.sha256(), time.monotonic()
    with socket.create_connection((host, int(port)), timeout=240) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        head, end = b"", b""
        while not end:
            if not (part := connection.recv(8192)):
                sys.exit("closed before the end of the head")
            head, end, body = (head + part).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(f"answered {head.splitlines()[0].decode()}")
        length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        found.update(body)
        received = len(body)
        while received < length and (count := connection.recv_into(ROOM)):
            found.update(ROOM[:count])
            received += count
    print(time.monotonic() - began, received, found.hexdigest())


if __name__ == "__main__":
    main()
