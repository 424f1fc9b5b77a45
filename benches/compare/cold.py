"""What is not in the cache: one client and fifty, against an upstream that counts and can be slow.

The manifest is pulled first, as every client does, and is not in the times.
"""

import http.client
import shutil
import time

from client import Failed, pull, pulls

ACCEPT = "application/vnd.oci.image.manifest.v1+json"
MB = 1_000_000
CROWD = 50
PATIENCE = 100  # seconds, seven times what the link needs
IN_ALL = 50  # MB/s of a link that one client fills
PAUSE = 0.03  # seconds that a registry and its object store take to answer
FAR = 0.1  # seconds, where they are far away


class Cold:
    """Every measurement starts its server anew, with an empty cache."""

    def __init__(self, table, peers, origin, image, folder, load, options):
        self._table, self._peers, self._origin, self._options = table, peers, origin, options
        self._folder, self._load = folder, load
        layer = image.layers[0]
        self._digest, self._size = layer.digest, layer.size
        self._path = f"/v2/{image.repository}/blobs/{layer.digest}"
        self._manifest = f"/v2/{image.repository}/manifests/{image.tag}"
        self._reference = image.folder / layer.digest.removeprefix("sha256:")
        self._number = 0
        self._mib = round(layer.size / 2**20)

    def run(self):
        limit = self._options.limit
        alone = f"One client, a cold blob of {self._mib} MiB"
        # Each connection is limited, as a registry's object store does it: several are faster than one.
        for title, rate, shared, pause, bound in (
                (f"upstream limited to {limit} MB/s a connection", limit * MB, False, 0, ("<=", 0.35)),
                (f"upstream limited to {limit} MB/s a connection, each answer after {FAR * 1e3:.0f} ms", limit * MB, False, FAR, None),
                (f"upstream limited to {IN_ALL} MB/s in all", IN_ALL * MB, True, 0, ("<=", 1.03)),
                ("upstream at loopback speed", None, False, 0, ("<=", 1.3)),
                (f"the same, each answer after {PAUSE * 1e3:.0f} ms", None, False, PAUSE, None)):
            if not self._options.wants(f"cold, one client, {title}"):
                continue
            seconds = self._table.row(alone, f"{title}, seconds", "{:.2f}")
            share = self._table.row(alone, f"{title}, ÷ direct", "{:.3f}", False, bound)
            cost = self._table.row(alone, f"{title}, server CPU-s per GB", "{:.2f}")
            self._origin.pause = pause
            self._alone(title, rate, shared, seconds, share, cost)
            self._origin.pause = 0
            if rate and not shared and not pause:
                self._far(alone, rate)
        if not self._options.wants(f"cold, {CROWD} clients at once"):
            return
        # In all, so that it is the upstream that limits, and not the mirror or fifty clients on one machine.
        crowd = f"{CROWD} clients at once, the same blob, upstream limited to {limit} MB/s in all"
        single = self._single(crowd, limit * MB)
        self._crowd(crowd, single, 0, "")
        self._crowd(crowd, single, CROWD - 1, f"with {CROWD - 1} killed in the body: ")

    def _alone(self, title, rate, shared, seconds, share, cost):
        print(f"  cold, one client, {title}", flush=True)
        # Limited, it is the limit that is measured, and rounds differ little.
        for number in range(self._options.cold_rounds if rate else self._options.rounds):
            seconds.add("direct", self._pull(f"127.0.0.1:{self._origin_at(rate, shared)}"))
            names = self._peers.names()
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                try:
                    with _Fresh(self, name, rate, shared) as server:
                        took = self._pull(server.address)
                        # A download that is still being stored has not cost all yet.
                        time.sleep(0.3)
                        used = server.cpu() - server.cpu_at_start
                    seconds.add(name, took)
                    cost.add(name, used / (self._size / 1e9))
                except (Failed, OSError) as failure:
                    seconds.failures[name] = str(failure)
        for name in self._peers.names():
            for took in seconds.values.get(name, []):
                share.add(name, took / seconds.median("direct"))

    def _pull(self, address):
        return pull(address, self._path, self._digest, self._size)

    def _single(self, section, rate):
        """What one client takes where the upstream is limited in all."""
        print("  cold, one client, an upstream that is limited in all", flush=True)
        row = self._table.row(section, "one client, seconds", "{:.2f}")
        for name in self._peers.names():
            try:
                with _Fresh(self, name, rate, True) as server:
                    row.add(name, self._pull(server.address))
            except (Failed, OSError) as failure:
                row.failures[name] = str(failure)
        return row

    def _far(self, section, rate):
        """What a client waits that wants the end of a cold blob first."""
        print("  cold, one client, a far range", flush=True)
        first = self._table.row(section, "first byte of a range 4 MiB before the end, upstream limited, ms", "{:.0f}")
        start = self._size - 4 * 2**20
        for _ in range(self._options.cold_rounds):
            for name in self._peers.names():
                try:
                    with _Fresh(self, name, rate) as server, open(self._reference, "rb") as file:
                        connection = http.client.HTTPConnection(server.address, timeout=240)
                        began = time.monotonic()
                        connection.request("GET", self._path, headers={"Range": f"bytes={start}-{start + 99}"})
                        got = connection.getresponse().read(100)
                        first.add(name, (time.monotonic() - began) * 1e3)
                        connection.close()
                        file.seek(start)
                        if got != file.read(100):
                            raise Failed("wrong bytes, or all of them from the beginning")
                except (Failed, OSError, http.client.HTTPException) as failure:
                    first.failures[name] = str(failure)

    def _crowd(self, section, single, killed, prefix):
        print(f"  cold, {CROWD} clients at once, {killed} killed", flush=True)
        gets = self._table.row(section, f"{prefix}upstream GETs", "{:.0f}")
        sent = self._table.row(section, f"{prefix}upstream bytes ÷ size", "{:.2f}", False, ("<=", 1.0))
        if not killed:
            first = self._table.row(section, "first byte of the first client, ms", "{:.0f}")
            behind = self._table.row(section, "first byte of the last client after that, ms", "{:.0f}", False, ("<=", 50))
        total = self._table.row(section, f"{prefix}last client done, seconds", "{:.2f}")
        share = self._table.row(section, f"{prefix}÷ one client's time", "{:.2f}", False, ("<=", 1.1))
        for number in range(1 if killed else self._options.cold_rounds):
            for name in self._peers.names():
                # A peer that downloads or waits fifty times takes minutes: once is enough to see it.
                if number and name not in ("Roadstead", "nginx"):
                    continue
                try:
                    with _Fresh(self, name, self._options.limit * MB, True) as server:
                        # Who downloads fifty times over one slow link is not waited for.
                        done = pulls(self._load, server.address, self._path, self._reference, CROWD, killed, self._size // 4,
                                     timeout=PATIENCE)
                        time.sleep(0.2)
                        gets.add(name, self._origin.gets[self._digest])
                        sent.add(name, round(self._origin.sent[self._digest] / self._size, 4))
                    if not killed:
                        firsts = [each[0] for each in done]
                        first.add(name, min(firsts) * 1e3)
                        behind.add(name, (max(firsts) - min(firsts)) * 1e3)
                    last = max(each[1] for each in done if each[2] == self._size)
                    total.add(name, last)
                    if alone := single.median(name):
                        share.add(name, last / alone)
                except (Failed, OSError) as failure:
                    total.failures[name] = str(failure)

    def _origin_at(self, rate, shared=False):
        self._origin.rate, self._origin.shared = rate, shared
        self._origin.reset()
        return self._origin.port


class _Fresh:
    """One server with an empty cache, gone afterwards."""

    def __init__(self, cold, name, rate, shared=False):
        self._cold, self._name = cold, name
        cold._number += 1
        self._folder = cold._folder / f"cold-{cold._number}"
        self._port = cold._origin_at(rate, shared)

    def __enter__(self):
        self._server = self._cold._peers.start(self._name, self._folder, self._port)
        connection = http.client.HTTPConnection(self._server.address, timeout=60)
        connection.request("GET", self._cold._manifest, headers={"Accept": ACCEPT})
        connection.getresponse().read()
        connection.close()
        # What a server does at its start, and the kernel with what the one before has written, is not of this pull.
        time.sleep(0.2)
        self._server.cpu_at_start = self._server.cpu()
        return self._server

    def __exit__(self, *_):
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
