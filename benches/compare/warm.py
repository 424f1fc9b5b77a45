"""What is in the cache: requests and bytes a second, latency and the server's CPU time, under wrk and drain.py; and many
clients at once."""

import hashlib
import http.client
import os
import re
import resource
import ssl
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from client import Failed, held
from peers import BESIDE
from table import LOGGING

DRAIN = Path(__file__).resolve().parent / "drain.py"
ACCEPT = "application/vnd.oci.image.manifest.v1+json"
SMALL_CONNECTIONS = 64
OTHERS = 0.1  # of the machine's CPU time; more, and the round is done again
ATTEMPTS = 3
SLOW = 64 << 10  # bytes a second of a slow stream
_SMALL = f"Small objects, cached, {SMALL_CONNECTIONS} connections"
_LARGE = "Large blobs, cached, plain HTTP"
_DRAINED = "The same, by a client whose kernel drops the bodies"
_TLS = "Cached, TLS 1.3 (HTTP/1.1)"
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_SECURE = {"10 KB": (8, SMALL_CONNECTIONS), "1 MiB": (8, 64), "200 MiB": (1, 8, 64)}
_TARGETS = {"1 MiB": ((">=", 1.5), ("<=", 0.8)), "200 MiB": ((">=", 1.0), ("<=", 1.15))}


def check(server, path, digest):
    """One whole GET, whose body must have this digest."""
    # wrk checks no certificate either; what is checked here are the bytes.
    secure = {"context": ssl._create_unverified_context()} if server.scheme == "https" else {}
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    with closing(kind("127.0.0.1", server.port, timeout=120, **secure)) as connection:
        connection.request("GET", path, headers={"Accept": ACCEPT})
        answer = connection.getresponse()
        found = hashlib.sha256()
        while part := answer.read(1 << 20):
            found.update(part)
    if answer.status != 200 or f"sha256:{found.hexdigest()}" != digest:
        raise Failed(f"answered {answer.status} with sha256:{found.hexdigest()} for {path}")


def busy():
    """Seconds for which the machine's cores have worked so far, for whomever; the kernel's own threads included."""
    user, nice, system, _idle, _waiting, interrupt, soft, stolen, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + interrupt + soft + stolen) / os.sysconf("SC_CLK_TCK")


def wrk(server, path, connections, seconds):
    """(requests a second, bytes a second, [p50, p99], CPU seconds of the server, of wrk and of everybody else, seconds)"""
    others, before, own = busy(), server.cpu(), resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "60s",
                           "-H", f"Accept: {ACCEPT}", f"{server.scheme}://{server.address}{path}"],
                          capture_output=True, text=True, check=True).stdout
    used, own_after, others = server.cpu() - before, resource.getrusage(resource.RUSAGE_CHILDREN), busy() - others
    if trouble := re.search(r"(Non-2xx.*|Socket errors.*)", said):
        raise Failed(trouble[1])
    count, took, amount, unit = re.search(r"(\d+) requests in ([\d.]+)s, ([\d.]+)(\w+) read", said).groups()
    latency = [float(number) * _SECONDS[unit] for number, unit in re.findall(r"(?:50|99)%\s+([\d.]+)(us|ms|s|m)\b", said)]
    spent = own_after.ru_utime + own_after.ru_stime - own.ru_utime - own.ru_stime
    took = float(took)
    return int(count) / took, float(amount) * _BYTES[unit] / took, latency, used, spent, others - used - spent, took


def drain(server, path, connections, seconds):
    """As `wrk`, with a client that has the kernel drop the bodies; it tells no latency."""
    others, before, own = busy(), server.cpu(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run([sys.executable, DRAIN, str(server.port), path, str(connections), str(seconds)],
                         capture_output=True, text=True, check=False)
    used, own_after, others = server.cpu() - before, resource.getrusage(resource.RUSAGE_CHILDREN), busy() - others
    if ran.returncode != 0:
        raise Failed(ran.stderr.strip().splitlines()[-1])
    count, amount, took = map(float, ran.stdout.split())
    spent = own_after.ru_utime + own_after.ru_stime - own.ru_utime - own.ru_stime
    return count / took, amount / took, [], used, spent, others - used - spent, took


class Warm:
    """Every server holds every object; each round asks each server in turn, and the next round begins with another one."""

    def __init__(self, table, peers, folder, upstream, image, options):
        self._table, self._peers, self._folder, self._upstream, self._options = table, peers, folder, upstream, options
        self.servers = {name: peers.start(name, folder / name, upstream) for name in peers.names()}
        names = ("10 KB", "1 MiB", "16 MiB", "200 MiB")
        self.blobs = {name: (f"/v2/{image.repository}/blobs/{layer.digest}", layer.digest)
                      for name, layer in zip(names, image.layers)}
        manifests = f"/v2/{image.repository}/manifests/"
        self.small = {"manifest by digest": (manifests + image.digest, image.digest),
                      "manifest by tag": (manifests + image.tag, image.digest),
                      "10 KB blob": self.blobs["10 KB"]}
        self._shares, self._others, self._repeated = [], [], 0

    def check(self):
        """Right bytes from every server, of every object, twice: as it is fetched and as it is cached.

        A peer whose bytes are wrong is out of the comparison, and its column says why.
        """
        for name, server in list(self.servers.items()):
            try:
                for path, digest in [*self.small.values(), *self.blobs.values()] * 2:
                    check(server, path, digest)
                    if server.secure:
                        check(server.secure, path, digest)
            except (Failed, OSError) as failure:
                if name == "Roadstead":
                    raise
                self.servers.pop(name).stop()
                self._table.missing[name] = f"wrong: {failure}"

    def run(self):
        for name, (path, _) in self.small.items():
            if not self._options.wants(name):
                continue
            rate, p50, p99, cost = (self._table.row(_SMALL, f"{name}, {what}", form, True, target) for what, form, target in (
                ("requests/s", "{:,.0f}", (">=", 1.2)), ("p50 ms", "{:.2f}", None), ("p99 ms", "{:.2f}", ("<=", 1.0)),
                ("server CPU µs a request", "{:.1f}", None)))

            def small(server, column):
                requests, _, latency, used, spent, took = self._load(wrk, server, path, SMALL_CONNECTIONS)
                rate.add(column, requests)
                p50.add(column, latency[0] * 1e3)
                p99.add(column, latency[1] * 1e3)
                cost.add(column, used / (requests * took) * 1e6)
                self._shares.append(spent / took)

            self._rounds(name, small, rate, True)
        both = {name: self.servers[name] for name in ("Roadstead", BESIDE, "nginx") if name in self.servers}
        for section, client, servers, targets in ((_LARGE, wrk, self.servers, _TARGETS), (_DRAINED, drain, both, {})):
            for size, connections in self._options.large:
                self._large(section, client, servers, size, connections, targets.get(size, (None, None)))
        self._run_secure()
        if not self._shares:
            return
        memory = self._table.row("Memory", "RSS after all of this, MiB", "{:.0f}")
        for name, server in self.servers.items():
            memory.add(name, server.rss() / 2**20)
        self._table.notes.append(
            f"The client runs on the same {self._options.cores} cores in one thread. It used {min(self._shares):.0%} to "
            f"{max(self._shares):.0%} of a core; where it is near 100 %, it is what limits, and a faster server would not show.")
        self._table.notes.append(
            f"In these rounds, everything else on the machine took {median(self._others):.0%} of its CPU time in the "
            f"median and {max(self._others):.0%} at most, the kernel's own threads included; rounds in which it was more than "
            f"{OTHERS:.0%} were done again: {self._repeated} repetitions, at most {ATTEMPTS - 1} a round.")

    def _large(self, section, client, servers, size, connections, targets):
        plural = "connection" if connections == 1 else "connections"
        title = f"{size} blob, {connections} {plural}, {client.__name__}"
        if not self._options.wants(title):
            return
        speed = self._table.row(section, f"{size}, {connections} {plural}, GB/s", "{:.2f}", True, targets[0])
        cost = self._table.row(section, f"{size}, {connections} {plural}, server CPU-s per GB", "{:.3f}", True, targets[1])

        def measure(server, column):
            _, rate, _, used, spent, took = self._load(client, server, self.blobs[size][0], connections)
            speed.add(column, rate / 1e9)
            cost.add(column, used / (rate * took / 1e9))
            self._shares.append(spent / took)

        self._rounds(title, measure, speed, False, servers)

    def _run_secure(self):
        """The same objects over TLS, by the servers that have it here."""
        servers = {name: server.secure for name, server in self.servers.items() if server.secure}
        for size, counts in _SECURE.items():
            path, _ = self.blobs[size]
            for connections in counts if not self._options.quick else counts[-1:]:
                small = size == "10 KB"
                unit, form = ("requests/s", "{:,.0f}") if small else ("GB/s", "{:.2f}")
                of, share_form = ("server CPU µs a request", "{:.1f}") if small else ("server CPU-s per GB", "{:.3f}")
                plural = "connection" if connections == 1 else "connections"
                title = f"{size} blob over TLS, {connections} {plural}"
                if not self._options.wants(title):
                    continue
                speed = self._table.row(_TLS, f"{size}, {connections} {plural}, {unit}", form, True, (">=", 1.0))
                cost = self._table.row(_TLS, f"{size}, {connections} {plural}, {of}", share_form, True)

                def measure(server, column):
                    requests, rate, _, used, spent, took = self._load(wrk, server, path, connections)
                    speed.add(column, requests if small else rate / 1e9)
                    cost.add(column, used / (requests * took) * 1e6 if small else used / (rate * took / 1e9))
                    self._shares.append(spent / took)

                self._rounds(title, measure, speed, False, servers)

    def _load(self, client, server, path, connections):
        """One round, again if others took part of the machine: as the load is not seen in the figures, it must not be in them."""
        for attempt in range(ATTEMPTS):
            *figures, others, took = client(server, path, connections, self._options.seconds)
            share = others / took / self._options.cores
            if share <= OTHERS:
                break
            self._repeated += attempt + 1 < ATTEMPTS
        # Below 0 by the ticks that everybody's time is counted in.
        self._others.append(max(0.0, share))
        self._table.others = max(self._table.others, share)
        return *figures, took

    def _rounds(self, title, measure, row, with_log, servers=None):
        print(f"  {title}", flush=True)
        columns = list((servers or self.servers).items())
        if with_log and "nginx" in self.servers:
            columns.append((LOGGING, self.servers["nginx"].logging))
        for number in range(self._options.rounds):
            shift = number % len(columns)
            for column, server in columns[shift:] + columns[:shift]:
                try:
                    measure(server, column)
                except (Failed, OSError) as failure:
                    row.failures[column] = str(failure)

    def stop(self):
        for server in self.servers.values():
            server.stop()

    def crowds(self, load, reference):
        """Many slow readers of one large blob, and many connections that do nothing."""
        streams, idle = self._options.streams, self._options.idle
        resting, growth = (
            self._table.row("Memory", f"{what}, RSS growth, MiB", "{:.0f}", False, ("<=", bound))
            for what, bound in ((f"{idle:,} idle keep-alive connections", 150),
                                (f"{streams:,} slow streams of a 200 MiB blob", 100)))
        for name in self._options.crowd_names or self.servers:
            if name not in self.servers:
                continue
            title = f"{idle:,} idle connections, {streams:,} slow streams: {name}"
            if not self._options.wants(title):
                continue
            print(f"  {title}", flush=True)
            for row, kind, (path, digest), words, seconds in (
                    (resting, "idle", self.small["manifest by digest"], [idle], 1),
                    (growth, "slow", self.blobs["200 MiB"], [reference, streams, SLOW], self._options.crowd_seconds)):
                try:
                    row.add(name, self._growth(name, kind, path, digest, load, words, seconds) / 2**20)
                except (Failed, OSError) as failure:
                    row.failures[name] = str(failure)

    def _growth(self, name, kind, path, digest, load, words, seconds):
        """Of a server that was started for this, so that no memory that it has kept from before hides what it takes."""
        server = self._peers.start(name, self._folder / f"{name}-{kind}", self._upstream)
        try:
            check(server, path, digest)
            check(server, path, digest)
            before = server.rss()
            with held(load, [kind, server.address, path, *words]) as said:
                peak, end = server.rss(), time.monotonic() + seconds
                while time.monotonic() < end:
                    time.sleep(0.2)
                    peak = max(peak, server.rss())
            word, number = said[-1].split()
            if word == "alive" and int(number) < self._options.idle:
                raise Failed(f"closed {self._options.idle - int(number):,} of them")
            if word == "least" and int(number) == 0:
                raise Failed("starved a stream")
            return peak - before
        finally:
            server.stop()
