"""Clients that reach the mirror over TLS with a private authority, and by a unix socket; curl, for what engines do not show."""

import hashlib

from harness.engines import Containerd, Docker, Podman, Skopeo
from harness.process import Process, free_port, run, wait_until
from harness.registry import certificates
from harness.site import BINARY, SITE, ClientTest


class Tls(ClientTest):
    def setUp(self):
        super().setUp()
        self.hub = self.upstream()
        (self.folder / "tls").mkdir()
        self.authority, certificate, key = certificates(self.folder / "tls")
        self.socket = self.folder / "pull.sock"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        server = {"listen": [self.address, f"unix:{self.socket}"], "tls": {"cert": str(certificate), "key": str(key)}}
        self.served = self.mirror({"docker.io": self.hub}, port=self.port, server=server)

    def expect(self, client, image):
        client.pull(image)
        client.check(image)
        self.assert_fetched_once(self.hub, client.wants(image))

    def curl(self, *words):
        return run(["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "60", *map(str, words)], timeout=90)

    def test_skopeo(self):
        self.expect(Skopeo(self.folder / "skopeo", {"docker.io": self.address}, self.authority), SITE.oci)

    def test_podman(self):
        self.expect(Podman(self.folder / "podman", {"docker.io": self.address}, self.authority), SITE.oci)

    def test_containerd(self):
        containerd = Containerd(f"{self.name}.containerd", self.folder / "containerd", {})
        self.addCleanup(containerd.process.stop)
        containerd.set_host("docker.io", f"https://{self.address}", authority=self.authority)
        self.expect(containerd, SITE.oci)

    def test_docker(self):
        containerd = Containerd(f"{self.name}.containerd", self.folder / "containerd", {})
        self.addCleanup(containerd.process.stop)
        docker = Docker(f"{self.name}.dockerd", self.folder / "docker", f"https://{self.address}", containerd, self.authority)
        self.addCleanup(docker.process.stop)
        self.expect(docker, SITE.docker)

    def test_a_client_without_the_authority_gets_nothing(self):
        skopeo = Skopeo(self.folder / "skopeo", {"docker.io": self.address}, "/dev/null")
        with self.assertRaises(AssertionError):
            skopeo.pull(SITE.oci)
        self.assertEqual(self.hub.exchanges, [])

    def test_curl(self):
        """Both versions of HTTP over TLS, and a unix socket, give the same large layer."""
        digest = max(SITE.oci.layers, key=lambda layer: layer.size).digest
        path = f"/v2/{SITE.oci.repository}/blobs/{digest}"
        ways = {
            "http1.1": ("--cacert", self.authority, "--http1.1", f"https://{self.address}{path}"),
            "http2": ("--cacert", self.authority, "--http2", f"https://{self.address}{path}"),
            "unix": ("--unix-socket", self.socket, f"http://localhost{path}"),
        }
        for name, words in ways.items():
            with self.subTest(name):
                target = self.folder / name
                said = self.curl("--output", target, "--write-out", "%{http_version}", *words)
                self.assertEqual(said, {"http1.1": "1.1", "http2": "2", "unix": "1.1"}[name])
                with open(target, "rb") as file:
                    self.assertEqual("sha256:" + hashlib.file_digest(file, "sha256").hexdigest(), digest)


class Activation(ClientTest):
    """The socket is systemd's; the mirror is started by the first connection."""

    def test_the_first_pull_starts_the_mirror(self):
        port = free_port()
        (self.folder / "cache").mkdir()
        config = self.folder / "roadstead.toml"
        config.write_text(f"""
[server]
listen = "systemd:pull"
[admin]
listen = "off"
[cache]
dir = "{self.folder / "cache"}"
max_size = "1GiB"
min_free = "1MiB"
[upstream."docker.io"]
url = "http://127.0.0.1:{self.upstream().port}"
""")
        process = Process(f"{self.name}.activated", ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", "--fdname=pull",
                                                     BINARY, "serve", "--config", config])
        self.addCleanup(process.stop)
        # Its word, since a connection to try it would be the first one.
        wait_until(lambda: f"Listening on 127.0.0.1:{port}" in process.log.read_text(), "the socket is there", process=process)
        skopeo = Skopeo(self.folder / "skopeo", {"docker.io": f"127.0.0.1:{port}"})
        skopeo.pull(SITE.oci)
        skopeo.check(SITE.oci)
