"""A mirror that wants to know who pulls: each client signs in in its own way, and none gets in otherwise."""

import base64
import hashlib
import json
import subprocess

from harness.engines import Containerd, Docker, Podman, Skopeo
from harness.process import run
from harness.registry import HTPASSWD, PASSWORD, USER
from harness.site import BINARY, KIB, SITE, ClientTest

BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Access(ClientTest):
    def closed(self, upstream=None, **keys):
        """A mirror that nobody may pull from without signing in."""
        users = self.folder / "htpasswd"
        users.write_text(HTPASSWD)
        access = {"htpasswd": str(users), "rule": [{"who": ["signed-in"]}]} | keys
        return self.mirror({"docker.io": upstream or self.upstream()}, access=access)

    def checks(self, mirror, result=None):
        labels = {"result": result} if result else {}
        return mirror.metric("roadstead_password_checks_total", **labels)

    def assert_no_secret(self, mirror):
        log = mirror.log()
        self.assertNotIn(PASSWORD, log)
        self.assertNotIn(BASIC.removeprefix("Basic "), log)
        self.assertNotIn("Bearer ", log)

    def refused(self, pull, *words):
        """The pull fails, and says why."""
        with self.assertRaises(AssertionError) as failure:
            pull()
        text = str(failure.exception).lower()
        self.assertTrue(any(word in text for word in words), text)

    def test_podman(self):
        mirror = self.closed()
        authfile = self.folder / "auth.json"
        authfile.write_text("{}")
        podman = Podman(self.folder / "podman", {"docker.io": mirror.address})
        podman._environment["REGISTRY_AUTH_FILE"] = str(authfile)
        self.refused(lambda: podman.pull(SITE.docker), "unauthorized", "authentication required")
        sign_in = ("login", "--tls-verify=false", "--username", USER)
        self.refused(lambda: podman._run(*sign_in, "--password", "wrong", mirror.address), "invalid username/password", "unauthorized")
        podman._run(*sign_in, "--password", PASSWORD, mirror.address)
        podman.pull(SITE.docker)
        podman.check(SITE.docker)
        self.assertIn(f"identity={USER}", mirror.log().replace('"', ""))
        podman._run("logout", mirror.address)
        podman.remove(SITE.docker)
        self.refused(lambda: podman.pull(SITE.docker), "unauthorized", "authentication required")
        self.assert_no_secret(mirror)

    def test_skopeo(self):
        mirror = self.closed()
        folder = self.folder / "copy"

        def copy(*credentials):
            run(["skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false",
                 *credentials, f"docker://{SITE.docker.reference(mirror.address)}", f"dir:{folder}"],
                env={"REGISTRY_AUTH_FILE": str(self.folder / "none.json")})

        for credentials in ((), ("--src-creds", f"{USER}:wrong"), ("--src-creds", f"nobody:{PASSWORD}")):
            self.refused(lambda: copy(*credentials), "unauthorized", "authentication required", "invalid username/password")
        self.assertEqual(mirror.published(), [])
        copy("--src-creds", f"{USER}:{PASSWORD}")
        self.assertEqual("sha256:" + hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest(), SITE.docker.digest)
        self.assert_no_secret(mirror)

    def test_docker(self):
        mirror = self.closed()
        containerd = Containerd(f"{self.name}.containerd", self.folder / "containerd", {})
        self.addCleanup(containerd.process.stop)
        docker = Docker(f"{self.name}.dockerd", self.folder / "docker", "http://127.0.0.1:1", containerd)
        self.addCleanup(docker.process.stop)
        self.refused(lambda: docker.pull(SITE.docker, mirror.address), "unauthorized", "sign in", "no basic auth", "denied")
        sign_in = ("login", "--username", USER)
        self.refused(lambda: docker._docker(*sign_in, "--password", "wrong", mirror.address), "unauthorized", "no such user")
        docker._docker(*sign_in, "--password", PASSWORD, mirror.address)
        stored = json.loads((self.folder / "docker" / "config.json").read_text())["auths"]
        self.assertIn(mirror.address, stored)
        docker.pull(SITE.docker, mirror.address)
        docker.check(SITE.docker, mirror.address)
        docker._docker("logout", mirror.address)
        docker.remove(SITE.docker, mirror.address)
        self.refused(lambda: docker.pull(SITE.docker, mirror.address), "unauthorized", "sign in", "no basic auth", "denied")
        self.assert_no_secret(mirror)

    def containerd(self, mirror, header=None):
        containerd = Containerd(f"{self.name}.containerd", self.folder / "containerd", {})
        self.addCleanup(containerd.process.stop)
        containerd.set_host("docker.io", f"http://{mirror.address}", header=header)
        return containerd

    def test_containerd_header(self):
        """hosts.toml has a header for the mirror. Of a pull of twenty layers, one password is hashed."""
        image = SITE.push("rs-twenty", [(f"layer-{number}", 20 * KIB) for number in range(20)])
        mirror = self.closed()
        containerd = self.containerd(mirror, {"Authorization": BASIC})
        containerd.pull(image)
        containerd.check(image)
        self.assertEqual(self.checks(mirror), 1)
        self.assert_no_secret(mirror)

    def test_containerd_wrong_header(self):
        mirror = self.closed()
        wrong = "Basic " + base64.b64encode(f"{USER}:wrong".encode()).decode()
        containerd = self.containerd(mirror, {"Authorization": wrong})
        with self.assertRaises(AssertionError):
            containerd.pull(SITE.docker)
        self.assertEqual(mirror.published(), [])
        self.assertEqual(self.checks(mirror, "right"), 0)

    def test_containerd_user(self):
        """`ctr --user`: the password goes to /token alone, in a form."""
        mirror = self.closed()
        containerd = self.containerd(mirror)
        with self.assertRaises(AssertionError):
            containerd.pull(SITE.docker)
        containerd.pull(SITE.docker, options=("--user", f"{USER}:{PASSWORD}"))
        containerd.check(SITE.docker)
        self.assertEqual(self.checks(mirror), 1)
        self.assert_no_secret(mirror)

    def test_some_for_everybody(self):
        """Where a part is for everybody, who has no name pulls it, and no more; also from a mirror that asks all."""
        for number, asked in enumerate((False, True)):
            rules = [{"who": ["anyone"], "pull": ["docker.io/library/*"]}, {"who": ["signed-in"]}]
            users = self.folder / "htpasswd"
            users.write_text(HTPASSWD)
            access = {"htpasswd": str(users), "challenge_everybody": asked, "rule": rules}
            mirror = self.mirror({"docker.io": self.upstream()}, f"mirror{number}", access=access)
            skopeo = Skopeo(self.folder / f"skopeo{number}", {"docker.io": mirror.address})
            skopeo.pull(SITE.docker)
            skopeo.check(SITE.docker)
            self.refused(lambda: skopeo.pull(SITE.other), "unauthorized", "authentication required", "denied")
            if asked:
                podman = Podman(self.folder / "podman", {"docker.io": mirror.address})
                podman._environment["REGISTRY_AUTH_FILE"] = str(self.folder / "auth.json")
                podman._run("login", "--tls-verify=false", "--username", USER, "--password", PASSWORD, mirror.address)
                podman.pull(SITE.other)
                podman.check(SITE.other)

    def test_exposed_by_accident(self):
        """Other machines reach it, and nothing says who may pull: it does not start, and says what to write."""
        done = subprocess.run([BINARY, "serve", "--listen", "0.0.0.0:0", "--admin-listen", "off", "--cache-dir",
                               self.folder / "cache"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 78, done.stderr)
        for words in ("0.0.0.0:0", "[[access.rule]]", "open = true", "--open"):
            self.assertIn(words, done.stderr)
