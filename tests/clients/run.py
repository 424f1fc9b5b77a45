#!/usr/bin/env python3
"""Runs the client tests: `run.py [NAME...]`, where a NAME selects the tests whose id contains it.

The binary is `target/debug/roadstead`, or what the environment's ROADSTEAD names. The last line is `N passed, N failed, N skipped`.
"""

import os
import shutil
import signal
import sys
import unittest
from pathlib import Path

from harness.process import LOGS
from harness.site import BINARY

NEEDED = ("skopeo", "docker-registry", "podman", "buildah", "containerd", "ctr", "dockerd", "docker", "openssl", "curl")


def flatten(suite):
    for entry in suite:
        if isinstance(entry, unittest.TestSuite):
            yield from flatten(entry)
        else:
            yield entry


def main(names):
    if not Path(BINARY).is_file():
        sys.exit(f"There is no mirror at {BINARY}. Build it with `cargo build`, or name one with ROADSTEAD=PATH.")
    if missing := [program for program in NEEDED if not shutil.which(program)]:
        sys.exit(f"Missing: {', '.join(missing)}. tests/run installs them.")
    if os.geteuid() != 0:
        sys.exit("dockerd and containerd need root. Run this as root, for example in a container or a virtual machine.")
    # SIGTERM ends the run as Ctrl-C does, with everything stopped and removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shutil.rmtree(LOGS, ignore_errors=True)
    found = flatten(unittest.defaultTestLoader.discover(str(Path(__file__).parent), pattern="test_*.py"))
    suite = unittest.TestSuite(test for test in found if not names or any(name in test.id() for name in names))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    sys.stderr.flush()
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    if failed:
        print(f"Logs of the mirrors and clients: {LOGS}")
    # An error in a class's setUp is no test that ran, yet a failure.
    skipped = len(result.skipped)
    print(f"{max(result.testsRun - failed - skipped, 0)} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
