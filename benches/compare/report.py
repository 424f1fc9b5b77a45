"""The machine, and docs/PERFORMANCE.md."""

import hashlib
import os
import platform
import time
from pathlib import Path

from warm import OTHERS as LIMIT

_TEXT = """# Performance

`benches/compare/run --write` writes this file. Do not edit it by hand: run it again, or change its text in
`benches/compare/report.py`.

One run compares Roadstead, nginx `proxy_cache`, Debian's docker-registry as a proxy, and drayage. All of them stand in
front of the same local registry, and everything is on loopback. Absolute figures are of this machine and this hour;
**the ratios are what counts**.

{warning}## The machine and the versions

{facts}

{versions}

## The figures

A figure is the median of the rounds, with the lowest and the highest in brackets. If the brackets of two servers
overlap, the run cannot tell these servers apart. The targets are the project's own. They are for Roadstead's ratio to
nginx where the table has one, and otherwise for Roadstead's own figure. This run: {tally}.

{table}

## What was missed

{missed}

## How it is measured

**Cached objects.** Before and after each measurement, every server serves every object, and the sha256 of each body is
checked. In between, wrk asks one server after the other for {seconds} s each, in {rounds} rounds. Each round begins with
another server, so that a slow minute of the machine hits all of them. wrk reads every byte, as clients do, with one
thread. For large blobs that thread is the limit. So `drain.py` asks for them, too: it has the kernel drop the bodies,
and shows the most that a server can send. There is no target for it, as no client is like that.

Servers and client share {cores} cores. A server that uses less CPU leaves more to the client, so throughput here is the
cost of both ends. *Server CPU* is the user and system time of the server's own processes, which the kernel counts in
ticks of 10 ms; with a real network card, it is the limit. Bytes are counted as they arrive, so that a blob that takes
longer than the round counts, too.

**As shipped.** Roadstead runs with its defaults: metrics on, its log at `info` into a file, tags believed for a minute.
All servers listen on loopback. There Roadstead does not pace what it sends; the others send as the system's congestion
control says. nginx has sendfile, tcp_nopush, two workers, tags for an hour, and a cache lock that waits as long as it
takes (by default it gives up after 5 s and goes upstream). For small objects the targets are against nginx with its
access log, as it is shipped and as Roadstead has one; the ratio to nginx without a log stands beside it. For the rest
nginx writes no log. docker-registry and drayage run with their defaults, docker-registry without its access log; it
asks the upstream for each tag.

**Cold objects.** The upstream is a small registry that counts requests and bytes, and sends files with sendfile. It can
limit the rate of each connection, as object stores do, or of all together, as a slow link does. Each measurement starts
its server with an empty cache, and pulls the manifest first, as every client does. With a limited upstream there are
{cold_rounds} rounds, of fifty clients one for docker-registry and drayage, and with killed clients one for all.

- *One client* is `pull.py`, which hashes what it receives, as every container engine does. *Direct* is the same client
  against the upstream itself.
- *Fifty clients* are `load.rs`, which compares every byte with the original. Their upstream is limited in all, so that
  it is the limit.
- *At loopback speed* the upstream limits nothing. Client, mirror and upstream share the cores, and what a mirror adds is
  the CPU time of receiving, hashing, writing and sending.
- *Answers after 30 ms* are those of a fast registry that is not in the next rack; *after 100 ms*, of one on another
  continent.
- *Killed:* {killed} of the fifty clients close their connection after a quarter of the blob. The last one must get all
  of it.

**Memory.** RSS is the sum over a server's processes, so what nginx's workers share counts in each. Each growth is that
of a server which was started for it and has served the object twice, against the moment before. A slow stream reads at
most 64 KiB a second; the streams ran for {crowd_seconds} s, and the idle connections for 1 s after the last one was
open. A run of fewer than three rounds measures memory for Roadstead and nginx only.

**What it cannot say.** Loopback has no latency, no loss and no packets of 1,500 bytes. With {rounds} rounds the spread
is a hint, not a confidence interval. p99 on {cores} cores that the servers share with the load generator is mostly the
scheduler's. What other guests of a hypervisor do is not seen here.

## What was tried

What showed in this comparison was kept; the commit that brought it has its figures. These were measured on two cores,
one build beside the other in the same rounds.

**Kept**

- *Threads that take turns* (`server/turns.rs`): p99 of a manifest by digest over 64 connections 4.5 to 1.2 ms. To bind
  each thread to a core does as well here, and would be worse beside other work. To make way only for a thread that began
  on the same core is no better (p99 1.2 to 1.5 ms).
- *Room for a request's work once*, not twice (`hop.rs`), and hexadecimal by a table: a 10 KB blob over 64 connections
  11.1 to 9.7 µs of the server's CPU time, 95 to 101 thousand requests a second.
- *A look into the page cache for each 128 KiB* only for what nobody has sent within a second (`cache/pages.rs`): 7 % of
  the server's CPU time for 200 MiB blobs.
- *Asking for the next part ahead* (`fill/parts.rs`): with an upstream that takes 30 ms to answer, 2.23 to 1.25 × direct.
- *Larger parts where answers take long* (`fill/rate.rs`). The least for four connections is 0.25 × direct. Answers after
  100 ms from an upstream limited to 20 MB/s a connection, a blob of 256 MiB: 0.333 to 0.318. After 50 ms at 100 MB/s,
  512 MiB: 0.426 to 0.352. After 100 ms at 50 MB/s, 1 GiB: 0.338 to 0.303.
- *Loopback without pacing* (`listen/bind.rs`), see below.

**Pacing.** Where the system's congestion control is bbr, packets wait for a timer, on loopback, too. Listeners of
Roadstead on loopback addresses use reno; nginx has no such setting. That brings, in GB/s, 1 MiB blobs over 1 and 64
connections from 2.9 to 3.8 and from 2.8 to 5.1, 200 MiB blobs over 8 and 64 connections from 1.9 to 4.5 and from 1.6 to
4.2; and in server CPU-s per GB, in the same order, 0.21 to 0.10, 0.20 to 0.08, 0.11 to 0.06, 0.10 to 0.06. **Most of
what is ahead of nginx for large blobs on a machine with bbr is this.** With cubic, Linux's default, nginx is not paced
either, and a blob of a MiB is one call of sendfile for both. Ratios to nginx after
`sysctl -w net.ipv4.tcp_congestion_control=cubic`, over 1, 8 and 64 connections:

| | packets of 64 KiB (three rounds) | packets of 1,500 bytes (a network namespace, five rounds) |
|---|---|---|
| 1 MiB, GB/s | 1.02, 1.21, 1.29 | 0.97, 1.06, 1.00 |
| 1 MiB, CPU | 1.00, 1.02, 1.37 | 0.91, 1.00, 0.98 |
| 200 MiB, GB/s | 1.17, 1.16, 1.26 | 1.22, 1.15, 1.15 |
| 200 MiB, CPU | 0.83, 0.83, 0.84 | 0.74, 0.87, 0.84 |
| manifest by digest and 10 KB blob, requests/s | | 1.43, 1.46 |

**1 MiB over one connection** is nearly all wrk's. `perf sched` shows that of 235 µs a request wrk runs for 193. For 28 µs
one core or the other wakes up; 14 µs pass from Roadstead's waking to the first bytes for wrk, and are all that a server
could save. Its target is a matter of luck: bbr sometimes lets nginx's connection run without pacing, and then nginx
sends 3.9 GB/s, as Roadstead does. 1.5 × that is 5.8 GB/s, but wrk's own 193 µs allow 5.4 GB/s even from a server that
takes no time. To send the head by itself, so that wrk wakes up sooner, makes no difference.

**Not kept or not built**

- *`TCP_CORK`*. Without it, what fills no segment leaves with the next acknowledgement. On loopback, with packets of
  64 KiB, that makes 25 segments of a MiB instead of 17, which shows only where the client is not the limit. Around the
  spans of large blobs it brings 2 to 14 % more bytes a second by the client that drops bodies, and 1 to 8 % fewer by
  wrk. Around whole answers, 1 MiB over 8 and 64 connections: 3 to 12 % more by the one, 6 to 8 % fewer by the other.
  With packets of 1,500 bytes there is no difference.
- *Batches of 4 MiB to the disk* instead of 1: a cold blob takes 1.6 times as long. Of 256 and 512 KiB: 5 % longer.
- *Spans of 2 and 4 MiB* instead of 1: no difference.
- *aws-lc-rs for SHA-256* instead of sha2: 0.544 and 0.546 s a GiB where the CPU has SHA extensions.
- *Heads rendered ahead*: making the head of an answer is 13 % of the instructions of a hit outside the kernel
  (`benches/instructions --keep`), some 5 % of its time.
- *`SO_REUSEPORT`*: a connection is given to the thread that has the fewest; nginx with it is as fast as without.

## Where a change in cost is seen first

`cargo bench` measures single steps (`benches/micro.rs`): routes, ranges, a hit in memory, the index, and a fill's news
to 1, 8 and 64 readers. Compare two runs on a quiet machine.

`benches/instructions` counts by callgrind what the CPU executes for a cached answer, from the socket to the line in the
log: a manifest by digest, a manifest by a fresh tag, a 10 KB blob from memory, a 1 MiB blob sent as a file. The count is
so exact that a busy machine does not matter. `.ci/run` fails if one of them is more than 3 % above
`benches/instructions.json` (15 % with another compiler than the baseline's). If you make a hit dearer on purpose, say
why, and run it with `--write`. `--keep DIR` keeps the profile for `callgrind_annotate`. What the kernel does in system
calls is not counted: a gain there shows only in the comparison above.
"""

_DISTURBED = """**This run is provisional: the machine was not quiet.** Other work took up to {most:.0%} of its CPU time in rounds that
are in the table. Ratios near a target, and every p99, may be different when nothing else runs.

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
