"""Runs the clients of the cold cases and the crowds: `pull.py` for one, `load` for many."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

_PULL = Path(__file__).resolve().parent / "pull.py"


class Failed(Exception):
    """A server did not do what was asked of it; the table says what."""


def pull(address, path, digest, size):
    """Seconds that one client takes for a blob, which must be the right one."""
    ran = subprocess.run([sys.executable, _PULL, address, path], capture_output=True, text=True, timeout=240, check=False)
    if ran.returncode:
        raise Failed(ran.stderr.strip().splitlines()[-1])
    took, received, found = ran.stdout.split()
    if int(received) != size or f"sha256:{found}" != digest:
        raise Failed(f"{received} of {size} bytes, with sha256:{found}")
    return float(took)


def pulls(load, address, path, reference, clients=1, killed=0, after=0, timeout=240):
    """[(first byte, total, bytes)] of every client; any that fails, or receives a wrong byte, fails the case."""
    try:
        done = subprocess.run([str(word) for word in (load, "get", address, path, reference, clients, killed, after)],
                              capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after {timeout} s") from None
    lines = done.stdout.splitlines()
    wrong = [line for line in lines if line.startswith("error")]
    if done.returncode or wrong or len(lines) != clients:
        raise Failed(f"{len(wrong)} of {clients} failed: {(wrong or [done.stderr.strip()])[0]}")
    return [(float(first), float(total), int(size)) for first, total, size in map(str.split, lines)]


@contextmanager
def held(load, words):
    """Keeps the connections of `load slow` or `load idle` open inside the block; its lines are complete after it."""
    child = subprocess.Popen([str(word) for word in (load, *words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    said = []
    try:
        said.append(child.stdout.readline().strip())
        if not said[0].startswith("open"):
            raise Failed(child.stderr.read().strip())
        yield said
        out, err = child.communicate(timeout=60)
        if child.returncode:
            raise Failed(err.strip())
        said += out.splitlines()
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            pipe.close()
