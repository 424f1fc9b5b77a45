"""Upstreams that want a password, and upstreams behind a private authority."""

import base64
import json
import os
import subprocess
import time

from harness.engines import Skopeo
from harness.mirror import toml
from harness.process import wait_until
from harness.registry import PASSWORD, USER, Registry
from harness.site import BINARY, SITE, ClientTest


class Upstreams(ClientTest):
    def registry(self, **options):
        SITE.docker  # pushed before, through the open door: the storage is shared
        registry = Registry(f"{self.name}.registry", self.folder / "registry", SITE.storage, **options)
        self.addCleanup(registry.process.stop)
        return registry

    def expect_pull(self, mirror):
        client = Skopeo(self.folder / f"skopeo-{mirror.port}-{time.monotonic_ns()}", {"docker.io": mirror.address})
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

    def test_password_from_a_helper(self):
        registry = self.registry(password=True)
        helper = self.folder / "docker-credential-tests"
        answer = json.dumps({"ServerURL": "", "Username": USER, "Secret": PASSWORD})
        helper.write_text(f"#!/bin/sh\nread -r server\n[ \"$server\" = 127.0.0.1:{registry.port} ] && echo '{answer}'\n")
        helper.chmod(0o755)
        self.expect_pull(self.mirror({"docker.io": {"url": self.url(registry), "credentials": {"helper": "tests"}}},
                                     environment={"PATH": f"{self.folder}:{os.environ['PATH']}"}))

    def test_docker_config_is_read_again(self):
        registry = self.registry(password=True)
        config = self.folder / "config.json"

        def write(password):
            auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
            config.write_text(json.dumps({"auths": {f"127.0.0.1:{registry.port}": {"auth": auth}}}))

        write("an-old-one")
        mirror = self.mirror({"docker.io": {"url": self.url(registry), "credentials": {"docker_config": str(config)}}})
        self.expect_refusal(mirror)
        write(PASSWORD)
        wait_until(lambda: mirror.get(f"/v2/library/rs-docker/manifests/{SITE.docker.tag}")[0] == 200, "the new password is used")
        self.expect_pull(mirror)

    def test_two_accounts_by_prefix(self):
        registry = self.registry(password=True)
        credentials = [{"prefix": "nobody", "username": "x", "password": "y"}, {"username": USER, "password": PASSWORD},
                       {"prefix": "library/other", "username": "x", "password": "y"}]
        self.expect_pull(self.mirror({"docker.io": {"url": self.url(registry), "credentials": credentials}}))

    def test_chain_of_two_mirrors(self):
        """A site's mirror behind a region's: ids and Cache-Status go through both."""
        registry = self.registry()
        region = self.mirror({"docker.io": {"url": self.url(registry)}}, "region", freshness={"fresh_for": "1h"})
        site = self.mirror({"docker.io": {"url": f"http://{region.address}"}}, "site", freshness={"fresh_for": "1h"})
        path = f"/v2/library/rs-docker/manifests/{SITE.docker.tag}"
        status, headers, _ = site.get(path, {"X-Request-Id": "one-pull-through-two"})
        self.assertEqual((status, headers["X-Request-Id"]), (200, "one-pull-through-two"))
        caches = [cache.strip() for cache in headers["Cache-Status"].split(",")]
        self.assertEqual(len(caches), 2, caches)
        self.assertTrue(caches[0].startswith("roadstead; hit") or caches[0].startswith("roadstead; fwd"), caches)
        self.assertEqual(caches[1], "roadstead; fwd=miss; stored")
        self.assertIn("one-pull-through-two", region.log())
        # Now both have it: the site answers alone.
        _, headers, _ = site.get(path)
        self.assertTrue(headers["Cache-Status"].startswith("roadstead; hit"), headers["Cache-Status"])
        self.assertNotIn(",", headers["Cache-Status"])
        self.expect_pull(site)
        # The region has everything: another site costs the registry nothing.
        before = region.metric("roadstead_upstream_requests_total")
        self.expect_pull(self.mirror({"docker.io": {"url": f"http://{region.address}"}}, "other-site"))
        self.assertEqual(region.metric("roadstead_upstream_requests_total"), before)
        registry.process.stop()
        self.expect_pull(site)

    def test_cached_content_goes_on_without_credentials(self):
        """A configuration, a helper or a password that goes bad costs nothing that is cached, and is told."""
        registry = self.registry(password=True)
        config = self.folder / "config.json"
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        config.write_text(json.dumps({"auths": {f"127.0.0.1:{registry.port}": {"auth": auth}}}))
        mirror = self.mirror({"docker.io": {"url": self.url(registry), "credentials": {"docker_config": str(config)}}})
        self.expect_pull(mirror)
        wrong = base64.b64encode(f"{USER}:a-wrong-one".encode()).decode()
        for content in ("{ not json", json.dumps({"credsStore": "is-not-installed"}),
                        json.dumps({"auths": {f"127.0.0.1:{registry.port}": {"auth": wrong}}})):
            config.write_text(content)
            time.sleep(1.2)  # the file is looked at once a second
            self.expect_pull(mirror)
            status, headers, body = mirror.get("/v2/library/never-pulled/manifests/1")
            self.assertGreaterEqual(status, 500, "that the mirror cannot sign in is no answer about the image")
            self.assertIn("docker.io", body.decode())
        self.assertIn("stale", mirror.get(f"/v2/library/rs-docker/manifests/{SITE.docker.tag}")[1]["Cache-Status"])
        for secret in (PASSWORD, "a-wrong-one", auth, wrong):
            self.assertNotIn(secret, mirror.log())

    def test_check_online(self):
        registry = self.registry(password=True, tls=True)
        image = f"library/rs-docker:{SITE.docker.tag}"

        def check(word, **keys):
            config = self.folder / f"{word}.toml"
            lines = [f"[upstream.{json.dumps(name)}]\nenabled = false" for name in
                     ("ghcr.io", "quay.io", "registry.k8s.io", "gcr.io", "mcr.microsoft.com", "public.ecr.aws", "nvcr.io")]
            keys = {"url": f"https://127.0.0.1:{registry.port}", "ca": str(registry.authority)} | keys
            lines += ['[upstream."docker.io"]', *(f"{key} = {toml(value)}" for key, value in keys.items() if value)]
            config.write_text("\n".join(lines))
            done = subprocess.run([BINARY, "check", "--config", config, "--online", image], capture_output=True, text=True, timeout=60)
            for secret in (PASSWORD, "a-wrong-one", base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()):
                self.assertNotIn(secret, done.stdout + done.stderr)
            return done.returncode, done.stdout + done.stderr

        code, text = check("good", credentials={"username": USER, "password": PASSWORD})
        self.assertEqual(code, 0, text)
        for step in ("name 127.0.0.1", "TLS and HTTP work (401)", f"of {USER}", "the password is accepted", "HEAD docker.io/library/rs-docker", "sha256:"):
            self.assertIn(step, text)
        for word, keys, expected in (
            ("wrong", {"credentials": {"username": USER, "password": "a-wrong-one"}}, "check `credentials`"),
            ("none", {}, "set `credentials`"),
            ("authority", {"ca": None}, "put that authority into `ca`"),
            ("name", {"url": "https://registry.invalid"}, "check the name in `url`"),
            ("closed", {"url": "https://127.0.0.1:1"}, "firewalls"),
        ):
            code, text = check(word, **keys)
            self.assertEqual(code, 1, text)
            self.assertIn(expected, text)
            self.assertIn("FAILED", text)

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
