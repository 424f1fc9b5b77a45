"""Private images: clients sign in to the mirror with the login that they have for the registry behind it."""

from harness.engines import Containerd, Docker, Podman, Skopeo
from harness.process import CommandFailed
from harness.registry import PASSWORD, USER, Registry
from harness.site import SITE, ClientTest

ALICE = f"{USER}:{PASSWORD}"
MALLORY = f"{USER}:a-guess"


class Private(ClientTest):
    def setUp(self):
        super().setUp()
        SITE.docker  # pushed before, through the open door: the storage is shared
        self.registry = Registry(f"{self.name}.registry", self.folder / "registry", SITE.storage, password=True)
        self.addCleanup(self.registry.process.stop)
        url = f"http://127.0.0.1:{self.registry.port}"
        self.served = self.mirror({"docker.io": {"url": url, "visibility": "caller", "verdict_for": "10m"}})

    def expect_two_users(self, engine):
        """`engine` makes a client in a folder of the given name."""
        def refused(name, login):
            before = self.served.metric("roadstead_response_bytes_total", kind="blob")
            with self.assertRaises(CommandFailed) as failure:
                engine(name).pull(SITE.docker, login=login)
            self.assertEqual(self.served.metric("roadstead_response_bytes_total", kind="blob"), before, name)
            return str(failure.exception)

        # Nothing is cached yet, and nothing is fetched for who may not.
        refused("cold", MALLORY)
        self.assertEqual(self.served.published(), [])
        alice = engine("alice")
        alice.pull(SITE.docker, login=ALICE)
        alice.check(SITE.docker)
        self.assertTrue(self.served.published())
        self.assertIn("accept", refused("warm", MALLORY))
        refused("nobody", None)
        # The registry is gone: a verdict is what counts.
        self.registry.process.stop()
        alice = engine("again")
        alice.pull(SITE.docker, login=ALICE)
        alice.check(SITE.docker)
        refused("down", MALLORY)
        for secret in (PASSWORD, "a-guess"):
            self.assertNotIn(secret, self.served.log())

    def test_skopeo(self):
        self.expect_two_users(lambda name: Skopeo(self.folder / name, {"docker.io": self.served.address}))

    def test_podman(self):
        self.expect_two_users(lambda name: Podman(self.folder / name, {"docker.io": self.served.address}))

    def expect_logins(self, login):
        """`login` signs in at the mirror, and raises what the client says if it is not let in."""
        login(USER, PASSWORD)
        for user, password in ((USER, "a-guess"), ("nobody", PASSWORD)):
            with self.assertRaises(CommandFailed) as failure:
                login(user, password)
            told = str(failure.exception).lower()
            self.assertTrue("unauthorized" in told or "invalid username/password" in told, told)
        self.assertNotIn(PASSWORD, self.served.log())
        self.assertNotIn("a-guess", self.served.log())
        # Nobody is turned away at the door while nobody can be asked.
        self.registry.process.stop()
        login(USER, PASSWORD)

    def test_podman_login(self):
        podman = Podman(self.folder / "podman", {"docker.io": self.served.address})
        podman._environment["REGISTRY_AUTH_FILE"] = str(self.folder / "auth.json")
        self.expect_logins(lambda user, password: podman._run(
            "login", "--tls-verify=false", "--username", user, "--password", password, self.served.address))

    def test_docker_login(self):
        containerd = Containerd(f"{self.name}.containerd", self.folder / "containerd", {})
        self.addCleanup(containerd.process.stop)
        docker = Docker(f"{self.name}.dockerd", self.folder / "docker", "http://127.0.0.1:1", containerd)
        self.addCleanup(docker.process.stop)
        self.expect_logins(lambda user, password: docker._docker(
            "login", "--username", user, "--password", password, self.served.address))
