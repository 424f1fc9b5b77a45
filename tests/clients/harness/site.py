"""The one site of a run: a folder, a registry with images, and a base class that cleans up after each test."""

import os
import shutil
import tempfile
import unittest
from functools import cached_property
from pathlib import Path

from .images import HOST_ARCHITECTURE, Studio
from .mirror import Mirror
from .process import REPOSITORY, temporary_folder
from .proxy import CountingProxy
from .registry import Registry

KIB, MIB = 1024, 1024 * 1024
BASE = ("base", 3 * MIB)  # the layer that images share
BINARY = os.environ.get("ROADSTEAD", REPOSITORY / "target" / "debug" / "roadstead")


class Site:
    """Made on first use, shared by all tests; nothing in it changes once it is pushed."""

    @cached_property
    def folder(self):
        return temporary_folder()

    @cached_property
    def storage(self):
        return self.folder / "registry-storage"

    @cached_property
    def registry(self):
        return Registry("registry", self.folder / "registry", self.storage)

    @cached_property
    def _studio(self):
        return Studio(self.folder / "studio")

    def push(self, name, layers, docker=False, repository=None):
        """A new image for one test alone, so that no other can have warmed anything of it."""
        return self.registry.push(self._studio.image(name, layers, docker), repository or f"library/{name}")

    @cached_property
    def oci(self):
        """Layers from 70 bytes to 64 MiB."""
        return self.push("rs-oci", [BASE, ("tiny", 70), ("small", 200 * KIB), ("large", 64 * MIB)])

    @cached_property
    def docker(self):
        """Docker's schema 2, over the shared layer."""
        return self.push("rs-docker", [BASE, ("docker", 5 * MIB)], docker=True)

    @cached_property
    def index(self):
        """An OCI index of two platforms over the shared layer."""
        return self._index("rs-index", docker=False)

    @cached_property
    def docker_list(self):
        """A Docker manifest list of two platforms over the shared layer."""
        return self._index("rs-list", docker=True)

    @cached_property
    def other(self):
        """An image of the second upstream; the first has no such repository."""
        return self.push("rs-other", [BASE, ("other", 300 * KIB)], repository="rs-team/nested/app")

    def _index(self, name, docker):
        children = {
            architecture: self._studio.image(f"{name}-{architecture}", [BASE, (f"{name}-{architecture}", 2 * MIB)], docker,
                                             architecture)
            for architecture in {HOST_ARCHITECTURE, "riscv64"}}
        return self.registry.push(self._studio.index(name, children, docker), f"library/{name}")


SITE = Site()


class ClientTest(unittest.TestCase):
    """Base of all tests. What a test starts is stopped at its end, in the opposite order, whatever happened."""

    def setUp(self):
        self.name = self.id().partition(".")[2]
        # Short: a socket's path ends at 108 bytes, podman's runroot at 50.
        self.folder = Path(tempfile.mkdtemp(prefix="t", dir=SITE.folder))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def upstream(self, registry=None):
        """A counting proxy before the registry."""
        proxy = CountingProxy((registry or SITE.registry).port)
        self.addCleanup(proxy.stop)
        return proxy

    def mirror(self, upstreams, called="mirror", **options):
        """A mirror with an empty cache; `upstreams` maps a name to a proxy or to a table of configuration. A test with
        several gives each a name."""
        upstreams = {name: upstream if isinstance(upstream, dict) else {"url": f"http://127.0.0.1:{upstream.port}"}
                     for name, upstream in upstreams.items()}
        mirror = Mirror(BINARY, f"{self.name}.{called}", self.folder / called, upstreams, **options)
        self.addCleanup(mirror.stop)
        return mirror

    def assert_fetched_once(self, upstream, blobs):
        """Each byte of each of these blobs came from the upstream exactly once, and of no other blob any."""
        for digest, size in blobs.items():
            end = 0
            for start, stop in upstream.spans(digest):
                self.assertEqual(start, end, f"{digest} was fetched as {upstream.spans(digest)}")
                end = stop
            self.assertEqual(end, size, f"{digest} of {size} bytes was fetched as {upstream.spans(digest)}")
        self.assertLessEqual(set(upstream.blob_gets()), set(blobs), "blobs that nobody asked for")
