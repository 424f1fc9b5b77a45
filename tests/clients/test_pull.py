"""Each client pulls each kind of image cold, warm, and with the upstream gone; and holds what was pushed."""

import unittest

from harness.engines import Buildah, Containerd, Docker, Podman, Skopeo
from harness.process import free_port
from harness.site import SITE, ClientTest


class Pulls:
    """The same tests for every client; `engine(port)` starts it, once for all of them."""

    @classmethod
    def setUpClass(cls):
        cls.port = free_port()  # each test's mirror listens here: a daemon is told only once
        cls.client = cls.engine(SITE.folder / cls.__name__, f"127.0.0.1:{cls.port}")

    def cold_warm_dead(self, image):
        upstream = self.upstream()
        mirror = self.mirror({"docker.io": upstream}, port=self.port)

        self.client.pull(image)
        self.client.check(image)
        self.assert_fetched_once(upstream, self.client.wants(image))
        self.client.remove(image)

        upstream.reset()
        self.client.pull(image)
        self.client.check(image)
        self.assertEqual(upstream.count("GET", "blobs"), 0, upstream.exchanges)
        self.assertEqual(upstream.count("GET", "manifests"), 0, "a tag is checked by HEAD")
        self.assertGreater(upstream.count("HEAD", "manifests"), 0, "the tag was checked")
        self.client.remove(image)

        upstream.stop()
        self.client.pull(image)
        self.client.check(image)
        self.client.remove(image)
        self.assertEqual(mirror.wrongly_published(), [])

    def test_oci_image(self):
        self.cold_warm_dead(SITE.oci)

    def test_docker_image(self):
        self.cold_warm_dead(SITE.docker)

    def test_oci_index(self):
        self.cold_warm_dead(SITE.index)

    def test_docker_list(self):
        self.cold_warm_dead(SITE.docker_list)


class SkopeoPulls(Pulls, ClientTest):
    @staticmethod
    def engine(folder, address):
        return Skopeo(folder, {"docker.io": address})


class PodmanPulls(Pulls, ClientTest):
    @staticmethod
    def engine(folder, address):
        return Podman(folder, {"docker.io": address})


class BuildahPulls(Pulls, ClientTest):
    @staticmethod
    def engine(folder, address):
        return Buildah(folder, {"docker.io": address})


class ContainerdPulls(Pulls, ClientTest):
    @classmethod
    def engine(cls, folder, address):
        containerd = Containerd("ContainerdPulls.containerd", folder, {"docker.io": (f"http://{address}", False)})
        cls.addClassCleanup(containerd.process.stop)
        return containerd


class DockerPulls(Pulls, ClientTest):
    @classmethod
    def engine(cls, folder, address):
        containerd = Containerd("DockerPulls.containerd", folder / "containerd", {})
        cls.addClassCleanup(containerd.process.stop)
        docker = Docker("DockerPulls.dockerd", folder / "docker", f"http://{address}", containerd)
        cls.addClassCleanup(docker.process.stop)
        return docker


if __name__ == "__main__":
    unittest.main()
