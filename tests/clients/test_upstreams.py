"""Upstreams that want a password, and upstreams behind a private authority."""

import base64
import json

from harness.engines import Skopeo
from harness.registry import PASSWORD, USER, Registry
from harness.site import SITE, ClientTest


class Upstreams(ClientTest):
    def registry(self, **options):
        SITE.docker  # pushed before, through the open door: the storage is shared
        registry = Registry(f"{self.name}.registry", self.folder / "registry", SITE.storage, **options)
        self.addCleanup(registry.process.stop)
        return registry

    def expect_pull(self, mirror):
        client = Skopeo(self.folder / "skopeo", {"docker.io": mirror.address})
        client.pull(SITE.docker)
        client.check(SITE.docker)

    def expect_refusal(self, mirror):
        """An OCI error that is no challenge, nothing cached, and no secret in it or in the log (I9)."""
        status, headers, body = mirror.get(f"/v2/library/rs-docker/manifests/{SITE.docker.tag}")
        self.assertGreaterEqual(status, 400)
        self.assertNotEqual(status, 401, "the upstream's challenge is not the client's")
        self.assertIsNone(headers["WWW-Authenticate"])
        self.assertTrue(json.loads(body)["errors"][0]["code"])
        self.assertEqual(mirror.published(), [])
        return body.decode() + mirror.log()

    def url(self, registry):
        return f"http://127.0.0.1:{registry.port}"

    def test_password(self):
        registry = self.registry(password=True)
        credentials = {"username": USER, "password": PASSWORD}
        mirror = self.mirror({"docker.io": {"url": self.url(registry), "credentials": credentials}})
        self.expect_pull(mirror)
        self.assertNotIn(PASSWORD, mirror.log())

    def test_password_from_a_file(self):
        registry = self.registry(password=True)
        secret = self.folder / "password"
        secret.write_text(f"{PASSWORD}\n")
        credentials = {"username": USER, "password_file": str(secret)}
        self.expect_pull(self.mirror({"docker.io": {"url": self.url(registry), "credentials": credentials}}))

    def test_password_from_docker_config(self):
        registry = self.registry(password=True)
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (self.folder / "config.json").write_text(json.dumps({"auths": {f"127.0.0.1:{registry.port}": {"auth": auth}}}))
        self.expect_pull(self.mirror({"docker.io": {"url": self.url(registry), "credentials": "docker-config"}},
                                     environment={"DOCKER_CONFIG": str(self.folder)}))

    def test_wrong_password(self):
        registry = self.registry(password=True)
        wrong = "not-the-password"
        credentials = {"username": USER, "password": wrong}
        said = self.expect_refusal(self.mirror({"docker.io": {"url": self.url(registry), "credentials": credentials}}))
        for secret in (wrong, base64.b64encode(f"{USER}:{wrong}".encode()).decode()):
            self.assertNotIn(secret, said)

    def test_no_password(self):
        registry = self.registry(password=True)
        self.expect_refusal(self.mirror({"docker.io": {"url": self.url(registry)}}))

    def test_private_authority(self):
        registry = self.registry(tls=True)
        url = f"https://127.0.0.1:{registry.port}"
        self.expect_pull(self.mirror({"docker.io": {"url": url, "ca": str(registry.authority)}}))

    def test_unknown_authority_is_refused(self):
        registry = self.registry(tls=True)
        self.expect_refusal(self.mirror({"docker.io": {"url": f"https://127.0.0.1:{registry.port}"}}))

    def test_second_url_is_asked_when_the_first_is_dead(self):
        live = self.upstream()
        dead = self.upstream()
        dead.stop()
        urls = [f"http://127.0.0.1:{dead.port}", f"http://127.0.0.1:{live.port}"]
        self.expect_pull(self.mirror({"docker.io": {"url": urls}}))
        self.assert_fetched_once(live, SITE.docker.blobs)
