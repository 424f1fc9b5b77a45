"""Private images: clients sign in to the mirror with the login that they have for the registry behind it."""

from harness.engines import Podman, Skopeo
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
