"""Every URL form that a client can be configured for reaches the right upstream."""

import json

from harness.engines import Containerd, Docker, Podman
from harness.images import digest_of
from harness.process import CommandFailed
from harness.site import SITE, ClientTest


class Addressing(ClientTest):
    """Two upstreams: docker.io, the default, and quay.io. Each image exists behind one of them only by what is asked."""

    def setUp(self):
        super().setUp()
        self.hub = self.upstream()
        self.quay = self.upstream()
        self.served = self.mirror({"docker.io": self.hub, "quay.io": self.quay})

    def expect(self, client, image, registry):
        """The client pulls the image, from the upstream that has this name and from no other."""
        client.pull(image, registry)
        client.check(image, registry)
        asked, spared = (self.hub, self.quay) if registry == "docker.io" else (self.quay, self.hub)
        self.assert_fetched_once(asked, client.wants(image))
        self.assertEqual(spared.exchanges, [])

    def docker(self, mirror):
        containerd = Containerd(f"{self.name}.containerd", self.folder / "containerd", {})
        self.addCleanup(containerd.process.stop)
        docker = Docker(f"{self.name}.dockerd", self.folder / "docker", mirror, containerd)
        self.addCleanup(docker.process.stop)
        return docker

    def containerd(self, registry, url, override_path=False):
        containerd = Containerd(f"{self.name}.containerd", self.folder / "containerd", {registry: (url, override_path)})
        self.addCleanup(containerd.process.stop)
        return containerd

    def test_docker_root(self):
        self.expect(self.docker(f"http://{self.served.address}"), SITE.docker, "docker.io")

    def test_docker_path(self):
        try:
            docker = self.docker(f"http://{self.served.address}/docker.io")
        except RuntimeError as error:
            if "invalid mirror: path" in str(error):
                self.skipTest("this dockerd takes no path in registry-mirrors (20.10 and older)")
            raise
        self.expect(docker, SITE.docker, "docker.io")

    def test_containerd_root_docker_io(self):
        self.expect(self.containerd("docker.io", f"http://{self.served.address}"), SITE.docker, "docker.io")

    def test_containerd_root_quay_io(self):
        self.expect(self.containerd("quay.io", f"http://{self.served.address}"), SITE.other, "quay.io")

    def test_containerd_path(self):
        self.expect(self.containerd("quay.io", f"http://{self.served.address}/quay.io"), SITE.other, "quay.io")

    def test_containerd_override_path(self):
        self.expect(self.containerd("quay.io", f"http://{self.served.address}/v2/quay.io", True), SITE.other, "quay.io")

    def test_containerd_default_host(self):
        """One hosts.toml in `_default` for all registries: `ns` alone tells them apart."""
        self.expect(self.containerd("_default", f"http://{self.served.address}"), SITE.other, "quay.io")

    def test_podman_root(self):
        self.expect(Podman(self.folder / "podman", {"docker.io": self.served.address}), SITE.docker, "docker.io")

    def test_podman_path(self):
        self.expect(Podman(self.folder / "podman", {"quay.io": f"{self.served.address}/quay.io"}), SITE.other, "quay.io")

    def test_unknown_registry_is_refused(self):
        """A registry that is not configured: no upstream is asked (T4)."""
        client = self.containerd("_default", f"http://{self.served.address}")
        with self.assertRaises(CommandFailed):
            client.pull(SITE.other, "registry.example")
        status, _, body = self.served.get("/v2/rs-team/nested/app/manifests/1?ns=registry.example")
        self.assertEqual((status, json.loads(body)["errors"][0]["code"]), (404, "NAME_UNKNOWN"))
        self.assertEqual(self.hub.exchanges + self.quay.exchanges, [])

    def test_all_forms_give_the_same(self):
        """Every URL form of A1 by hand, with the bytes of what was pushed (T5)."""
        for path, image in (
            ("/v2/library/rs-docker/manifests/1", SITE.docker),
            ("/v2/library/rs-docker/manifests/1?ns=docker.io", SITE.docker),
            ("/docker.io/v2/library/rs-docker/manifests/1", SITE.docker),
            ("/v2/docker.io/library/rs-docker/manifests/1?ns=docker.io", SITE.docker),
            ("/v2/rs-team/nested/app/manifests/1?ns=quay.io", SITE.other),
            ("/quay.io/v2/rs-team/nested/app/manifests/1?ns=quay.io", SITE.other),
            ("/v2/quay.io/rs-team/nested/app/manifests/1", SITE.other),
        ):
            with self.subTest(path):
                status, headers, body = self.served.get(path)
                self.assertEqual((status, headers["Docker-Content-Digest"]), (200, image.digest))
                self.assertEqual(digest_of(body), image.digest)
                self.assertEqual(self.served.get(path.partition("v2/")[0] + "v2/")[0], 200)

    def test_library_is_added(self):
        """A one-component name on docker.io means library/ (A1), for clients that do not add it themselves."""
        status, headers, _ = self.served.get(f"/v2/rs-docker/manifests/{SITE.docker.tag}")
        self.assertEqual((status, headers["Docker-Content-Digest"]), (200, SITE.docker.digest))
