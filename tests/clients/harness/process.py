"""Child processes, free ports and the one temporary folder. Nothing started here outlives the test run."""

import atexit
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
# Logs outlive the run, so that a failure can be read; each run overwrites the one before.
LOGS = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "client-tests"

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port():
    """A loopback port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what, timeout=20.0, process=None):
    """Polls `condition` until it is true; fails when `process` ends or the time is up."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.name} ended with {process.poll()} before {what}:\n{process.log_tail()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {timeout:.0f} s in vain: {what}" + (f"\n{process.log_tail()}" if process else ""))
        time.sleep(0.02)


def listens(port):
    """Whether a connection to this loopback port is accepted."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """One daemon. Start it from the main thread only: the kernel kills it when the thread that started it ends."""

    def __init__(self, name, argv, env=None, cwd=None):
        self.name = name
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = LOGS / f"{name}.log"
        with open(self.log, "ab") as log:
            log.write(f"--- {' '.join(map(str, argv))}\n".encode())
            log.flush()
            self._child = subprocess.Popen(
                [str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
                env={**os.environ, **(env or {})}, start_new_session=True, preexec_fn=_die_with_parent)
        atexit.register(self.kill)

    @property
    def pid(self):
        return self._child.pid

    def poll(self):
        return self._child.poll()

    def kill(self):
        """SIGKILL, and waits until it is gone."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()

    def terminate(self):
        """SIGTERM without waiting."""
        self._child.terminate()

    def wait(self, timeout):
        """The exit status; fails when it does not end in time."""
        return self._child.wait(timeout)

    def stop(self, timeout=20):
        """SIGTERM, and SIGKILL for one that does not listen. Returns the exit status."""
        self.terminate()
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.poll()

    def log_tail(self, lines=25):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class CommandFailed(AssertionError):
    """A client's command failed; the message holds what it said."""


def run(argv, env=None, timeout=180):
    """Runs a command to its end; returns what it printed on standard output."""
    done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", env={**os.environ, **(env or {})}, timeout=timeout)
    if done.returncode != 0:
        raise CommandFailed(f"exit status {done.returncode} of: {' '.join(map(str, argv))}\n{done.stdout}{done.stderr}")
    return done.stdout


def _unmount_below(folder):
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def temporary_folder():
    """The folder of this run; it goes when the run ends, whatever was mounted below it first."""
    folder = Path(tempfile.mkdtemp(prefix="roadstead-", dir="/tmp"))

    def remove():
        _unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)  # runs after the processes' handlers, which are registered later
    return folder
