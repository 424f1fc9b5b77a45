"""The machine, and docs/PERFORMANCE.md."""

import hashlib
import os
import platform
import time
from pathlib import Path

from warm import OTHERS as LIMIT

_TEXT = """# Performance

Written by `benches/compare/run --write`; do not edit it by hand, run it again.

One local registry with Roadstead, nginx `proxy_cache`, Debian's docker-registry as a proxy and drayage in front of it, all on
loopback, in one run. Absolute figures are of this machine and this hour; **the ratios are what counts**.

{warning}## The machine and the versions

{facts}

{versions}

## The figures

A figure is the median of the rounds, with the least and the greatest in brackets. A bracket as wide as the difference between
two servers means that the run cannot tell them apart. The targets are the project's own, for Roadstead's ratio to nginx where
one is given and else for its own figure. This run: {tally}.

{table}

## What was missed

{missed}

## How it is measured

**Cached objects.** Every server fetches every object, and each body's sha256 is checked, before the measurement and after it.
Then wrk ({seconds} s a round, {rounds} rounds), which reads every byte as clients do, asks each server in turn, and each round begins
with another one, so that a slow minute of the machine hits all of them. It has one thread, which for large blobs is what limits;
so they are also asked for by `drain.py`, which has the kernel drop the bodies: what the servers can do at the most, and without a
target, as no client is like that. Servers and client share the {cores} cores, so a server that uses less
CPU leaves more to the client, and throughput here is the cost of both ends. *Server CPU* is user and system time of the server's own
processes, as the kernel counts it in ticks of 10 ms: that is what a real network card makes the limit. Bytes are counted as
they arrive, so that a blob that takes longer than the round counts too.

**As shipped.** Roadstead runs with its defaults: metrics on, its log at `info` into a file, tags believed for a minute. All listen
on loopback; there Roadstead's bytes are not paced, and the others' leave as the system's congestion control has it. nginx
has sendfile, tcp_nopush, two workers, tags for an hour, and a cache lock that waits as long as it takes (by default it gives up
after 5 s and goes upstream). As shipped it writes an access log, as Roadstead does: for small objects, where a line counts, the
targets are to that column, and the ratio to an nginx without a log stands beside; elsewhere it writes none. docker-registry and
drayage run with their defaults, docker-registry with its access log off; it asks the upstream for each tag.

**Cold objects.** The upstream is a small registry that counts requests and bytes, sends files with sendfile, and can limit the rate
of each connection, as object stores do, or of all together, as a slow link does. Each measurement starts its server with an empty
cache, and pulls the manifest first, as every client does; those with a limited upstream have {cold_rounds} rounds, the fifty clients
one for docker-registry and drayage, and the killed ones one for all. One client is `pull.py`, which hashes what it receives, as every
container engine does; *direct* is the same client against the upstream itself. Fifty are `load.rs`, which compares every byte with
the original, and their upstream is limited in all, so that it is what limits. At loopback speed nothing is limited by the upstream:
client, mirror and upstream share the cores, and what a mirror takes longer is the CPU time of receiving, hashing, writing and sending.
The same with 30 ms before each answer is a fast registry that is not in the next rack; 100 ms is what one on another continent takes.

**Killed.** {killed} of the fifty clients close their connection after a quarter of the blob. The last one must get all of it.

**Memory.** A run of fewer than three rounds measures it for Roadstead and nginx alone. RSS is the sum over a server's processes, so what nginx's workers share counts in each. A slow stream reads at most
64 KiB a second. Each growth is that of a server which was started for it and has served the object twice, against the moment
before; the streams ran for {crowd_seconds} s and the idle connections for 1 s after the last one was open.

**What it cannot say.** Loopback has no latency, no loss and no packets of 1,500 bytes. With {rounds} rounds the spread is a
hint, not a confidence interval. p99 at {cores} cores shared with the load generator is mostly the scheduler's. A hypervisor's
other guests are not seen here.

## What was tried

Kept is what showed in this comparison; the commit that brought it has its figures. On two cores, one build beside the other in the same rounds:

- *Threads that take turns* (`server/turns.rs`), kept: p99 of a manifest by digest over 64 connections 4.5 to 1.2 ms. Each thread bound to a core
  did as well here, and would be worse beside other work. Making way only for a thread that began on the same core: p99 1.2 to 1.5 ms, not kept.
- *Room for a request's work once*, not twice (`hop.rs`), and hexadecimal by a table, kept: a 10 KB blob over 64 connections 11.1 to 9.7 µs of
  the server's CPU time, 95 to 101 thousand requests a second.
- *A look into the page cache for each 128 KiB*, now only for what nobody has sent within a second (`cache/pages.rs`): 7 % of the server's CPU
  time for 200 MiB blobs.
- *Loopback without pacing* (`listen/bind.rs`), kept: where the system's congestion control is bbr, every packet waits for a timer, on
  loopback too. Listeners on loopback addresses use reno; nginx has no such setting. GB/s of 1 MiB blobs over 1 and 64 connections
  2.9 to 3.8 and 2.8 to 5.1, of 200 MiB over 8 and 64 1.9 to 4.5 and 1.6 to 4.2, server CPU-s per GB 0.21 to 0.10, 0.20 to 0.08, 0.11 to 0.06 and
  0.10 to 0.06. **Most of what is ahead of nginx for large blobs on a machine with bbr is this.** Where the system-wide choice is cubic, Linux's default,
  nginx is not paced either, and where neither is, a blob of a MiB is one call of sendfile for both. Over 1, 8 and 64 connections, after
  `sysctl -w net.ipv4.tcp_congestion_control=cubic`, the ratios to it are, in three rounds: 1 MiB, GB/s 1.02, 1.21 and 1.29, CPU 1.00, 1.02 and
  1.37; 200 MiB, GB/s 1.17, 1.16 and 1.26, CPU 0.83, 0.83 and 0.84. With packets of 1,500 bytes as well (a loopback of that MTU in
  a network namespace, five rounds): 1 MiB, GB/s 0.97, 1.06 and 1.00, CPU 0.91, 1.00 and 0.98; 200 MiB, GB/s 1.22, 1.15 and 1.15, CPU
  0.74, 0.87 and 0.84; manifests by digest 1.43 and 10 KB blobs 1.46 times its requests.
- *`TCP_CORK`*, dropped. Without it, what fills no segment leaves with the next acknowledgement. On loopback, with packets of 64 KiB, that
  makes 25 segments of a MiB instead of 17, which shows only where the client is not what limits. Around the spans of large blobs, by
  the client that drops bodies, it brings 2 to 14 % more bytes a second; by wrk, 1 to 8 % fewer. Around whole answers, 1 MiB over 8 and
  64 connections, 3 to 12 % more by the one and 6 to 8 % fewer by the other. With packets of 1,500 bytes there is no difference.
- *Asking for the next part ahead* (`fill/parts.rs`), kept: an upstream that takes 30 ms to answer, 2.23 to 1.25 × direct.
- *Larger parts where answers take long* (`fill/rate.rs`), kept: answers after 100 ms from an upstream limited to 20 MB/s a connection, a
  blob of 256 MiB, 0.333 to 0.318 × direct; after 50 ms at 100 MB/s, 512 MiB, 0.426 to 0.352; after 100 ms at 50 MB/s, 1 GiB, 0.338 to
  0.303. The least for four connections is 0.25.
- *1 MiB over one connection* is nearly all wrk's: `perf sched` shows of 235 µs a request 193 in which wrk runs, 28 until one or the other
  core is awake, and 14 from Roadstead's waking to the first bytes for wrk, which are all that a server could save. Sending the head by
  itself, so that wrk wakes sooner: no difference, not kept.
- *Batches of 4 MiB to the disk* instead of 1: a cold blob takes 1.6 times as long. Of 256 and 512 KiB: 5 % longer.
- *Spans of 2 and 4 MiB* instead of 1: no difference.
- *aws-lc-rs for SHA-256* instead of sha2: 0.544 and 0.546 s a GiB where the CPU has SHA extensions.
- *Heads rendered ahead*: not built. Making the head of an answer is 13 % of the instructions of a hit outside the kernel
  (`benches/instructions --keep`), some 5 % of its time.
- *`SO_REUSEPORT`*: not built. Connections are given to the thread that has the fewest; nginx with it is as fast as without.

## Where a change in cost is seen first

`cargo bench` measures the steps one by one (`benches/micro.rs`): routes, ranges, a hit in memory, the index, and a fill's news to 1, 8
and 64 readers. Compare two runs on a quiet machine.

`benches/instructions` counts what the CPU executes for a cached answer, from the socket to the line in the log, by callgrind: manifest by
digest, manifest by a fresh tag, a 10 KB blob from memory, a 1 MiB blob sent as a file. The count is exact enough that a busy machine does
not matter; `.ci/run` fails when one of them is more than 3 % above `benches/instructions.json` (15 % with another compiler than that
baseline's). Who makes a hit dearer on purpose says why and runs it with `--write`. `--keep DIR` leaves the profile for
`callgrind_annotate`. System calls are not in it: a gain there shows in the comparison above alone.
"""

_DISTURBED = """**This run is provisional: the machine was not quiet.** Other work took up to {most:.0%} of its CPU time in rounds that
are in the table. Ratios near a target, and every p99, may come out otherwise when nothing else runs.

"""


def machine(options):
    """Lines that describe the machine and the moment."""
    info = Path("/proc/cpuinfo").read_text()
    names = (line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name"))
    model = next(names, platform.machine())
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    release = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    hypervisor = ", in a virtual machine" if " hypervisor" in info else ""
    binary = hashlib.sha256(options.binary.read_bytes()).hexdigest()[:12]
    return [f"- {time.strftime('%Y-%m-%d %H:%M')}: {options.cores} cores of {model}{hypervisor}, {memory / 2**20:.0f} GiB, "
            f"Linux {platform.release()}, {release}; caches on {_file_system('/tmp')}; TCP sends by {congestion}.",
            f"- Load average before the run: {os.getloadavg()[0]:.1f} (0 would be a machine that does nothing else).",
            f"- Rounds of each case: {options.rounds} of {options.seconds} s; the measured binary's sha256 begins with {binary}."]


def _file_system(folder):
    """The type of the file system that holds it."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if (folder == point or folder.startswith(point.rstrip("/") + "/")) and len(point) > len(best[0]):
            best = (point, kind)
    return best[1]


def log_lines(log, requests):
    """Whether the log kept up: it drops lines rather than hold up a request."""
    with open(log, "rb") as file:
        written = sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))
    dropped = "what it lacks was dropped under load, so that no request waited"
    verdict = "every request is in it" if written >= requests else dropped
    return f"Roadstead's log has {written:,} lines for {requests:,.0f} requests: {verdict}."


def write(path, facts, versions, table, options):
    path.write_text(_TEXT.format(
        warning=_DISTURBED.format(most=table.others) if table.others > LIMIT else "",
        cold_rounds=options.cold_rounds,
        facts="\n".join(facts), versions="\n".join(f"- {name}: `{version}`" for name, version in versions.items()),
        tally=table.tally(), missed="\n".join(table.missed()) or "Nothing.", table="\n".join(table.lines()), seconds=options.seconds,
        rounds=options.rounds, cores=options.cores,
        killed=49, crowd_seconds=options.crowd_seconds))
