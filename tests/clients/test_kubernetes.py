"""How a Kubernetes node pulls: the calls of its kubelet, containerd's CRI plugin, and the files that `roadstead clients` prints."""

import base64
import threading
from concurrent.futures import ThreadPoolExecutor

import yaml
from harness.cri import CallFailed, Node, secret
from harness.process import free_port, wait_until
from harness.registry import HTPASSWD, PASSWORD, USER, Registry, certificates, client_certificate
from harness.site import BASE, KIB, MIB, SITE, ClientTest

# A registry with a port in its name, and one with a dot alone. Neither name leads anywhere but by `server` in hosts.toml.
PORT, DOT = "registry.example:5000", "team.example"


class Kubernetes(ClientTest):
    def node(self, mirror=None, called="node", more="", registry=None):
        """A node whose containerd has the files that the mirror prints for it, each with `more` at its end."""
        node = Node(f"{self.name}.{called}", self.folder / called, registry)
        self.addCleanup(lambda: node.process.stop())
        if mirror:
            node.mirrors(mirror.clients("containerd"), more)
        return node

    def served(self, mirror):
        """Bytes of blobs that the mirror has given to clients; a refusal has a body, too."""
        return sum(mirror.metric("roadstead_response_bytes_total", kind="blob", result=result)
                   for result in ("memory", "disk", "joined", "fill"))

    def assert_through(self, mirror, pull, wanted):
        """`pull` gets these blobs from the mirror, each once, and from nobody else."""
        expected = self.served(mirror) + sum(wanted.values())
        pull()
        # Counted when the last byte has gone, which the client may have read before.
        wait_until(lambda: self.served(mirror) >= expected, "the blobs came through the mirror", timeout=5)
        self.assertEqual(self.served(mirror), expected)

    def assert_past(self, mirror, pull):
        """`pull` gets nothing of the mirror."""
        before = self.served(mirror)
        pull()
        self.assertEqual(self.served(mirror), before)

    def refused(self, pull, *words):
        """The call fails, and what a kubelet then shows has all these words. Returns it."""
        with self.assertRaises(CallFailed) as failure:
            pull()
        told = str(failure.exception)
        for word in words:
            self.assertIn(word, told)
        return told

    def test_cold_warm_and_with_the_registries_gone(self):
        """Three registries: a short name and a tag, a tag behind a port, and a digest."""
        upstreams = {name: self.upstream() for name in ("docker.io", PORT, DOT)}
        mirror = self.mirror(upstreams)
        node = self.node(mirror)
        app = SITE.push("rs-node-app", [("node-app", 3 * MIB), ("node-app-small", 70)], repository="acme/app")
        pinned = SITE.push("rs-node-pinned", [("node-pinned", 200 * KIB)], docker=True, repository="zoo/deep/pinned")
        pods = [(SITE.index, "docker.io", "rs-index:1"), (app, PORT, app.reference(PORT)),
                (pinned, DOT, f"{DOT}/{pinned.repository}@{pinned.digest}")]

        def each_is_pulled():
            for image, registry, name in pods:
                self.assert_through(mirror, lambda: node.pull(image, registry, name), node.wants(image))
                node.check(image, registry, name)
                node.remove(image)

        each_is_pulled()
        for image, registry, _ in pods:
            self.assert_fetched_once(upstreams[registry], node.wants(image))
            self.assertGreater(mirror.metric("roadstead_upstream_bytes_total", upstream=registry), 0)
            upstreams[registry].reset()
        each_is_pulled()
        for _, registry, _ in pods:
            asked = {(each.method, each.kind()) for each in upstreams[registry].exchanges}
            self.assertEqual(asked, set() if registry == DOT else {("HEAD", "manifests")}, "tags are checked, and nothing else")
            upstreams[registry].stop()
        each_is_pulled()
        self.assertEqual(mirror.wrongly_published(), [])

    def test_the_mirror_is_down(self):
        hub = self.upstream()
        mirror = self.mirror({"docker.io": hub})
        node = self.node(mirror)
        mirror.stop()
        node.pull(SITE.docker)
        node.check(SITE.docker)
        self.assertEqual(set(hub.blob_gets()), set(SITE.docker.blobs), "the node asked the registry itself")

    def test_what_the_mirror_cannot_give(self):
        """The node takes it from the registry itself: an image, the layers of one, or all of a registry that is not mirrored."""
        hub, other = self.upstream(), self.upstream()
        mirror = self.mirror({"docker.io": hub})
        node = self.node(mirror)
        path = f"/v2/{SITE.docker.repository}/manifests/{SITE.docker.tag}"
        mirror.switch(offline=True)
        self.assert_past(mirror, lambda: node.pull(SITE.docker))
        node.check(SITE.docker)
        node.remove(SITE.docker)
        self.assertIn("detail=offline", mirror.get(path)[1]["Cache-Status"])

        mirror.switch(offline=False)
        self.assertEqual(mirror.get(path)[0], 200)
        mirror.switch(offline=True)
        hub.reset()
        self.assert_past(mirror, lambda: node.pull(SITE.docker))
        node.check(SITE.docker)
        node.remove(SITE.docker)
        self.assertEqual((hub.count("GET", "manifests"), hub.count("HEAD", "manifests")), (0, 0), "that came from the mirror")
        self.assertEqual(set(hub.blob_gets()), set(SITE.docker.blobs))
        mirror.switch(offline=False)

        # deploy/containerd/_default: for every registry without a file of its own.
        unknown = f"127.0.0.1:{other.port}"
        node.mirror("_default", f'[host."http://{mirror.address}"]\ncapabilities = ["pull", "resolve"]\n')
        before = mirror.metric("roadstead_requests_total", kind="manifest", result="invalid")
        self.assert_past(mirror, lambda: node.pull(SITE.docker, unknown))
        node.check(SITE.docker, unknown)
        node.remove(SITE.docker)
        self.assertGreater(mirror.metric("roadstead_requests_total", kind="manifest", result="invalid"), before)

        # Nobody has it: the error names the image, the mirror, and what that said.
        hub.stop()
        nowhere = SITE.push("rs-node-nowhere", [("node-nowhere", 70)])
        self.refused(lambda: node.pull(nowhere), nowhere.reference(), mirror.address, "503 Service Unavailable")
        self.assertEqual(node.images(), [])

    def test_pull_secrets(self):
        """`visibility = "caller"`: the secret that a kubelet finds for the registry opens the mirror, cold, warm and with the
        registry gone; another one and none do not. No other registry is shown it, whatever comes first in the alphabet."""
        images = [SITE.push(f"rs-secret-{number}", [(f"secret-{number}", MIB)], repository=repository)
                  for number, repository in enumerate(("acme/secret", "zoo/secret"))]
        registry = Registry(f"{self.name}.registry", self.folder / "registry", SITE.storage, password=True)
        self.addCleanup(registry.process.stop)
        hub = self.upstream()
        mirror = self.mirror({"docker.io": {"url": f"http://127.0.0.1:{hub.port}", "visibility": "caller"},
                              PORT: {"url": f"http://127.0.0.1:{registry.port}", "visibility": "caller", "verdict_for": "10m"}})
        node = self.node(mirror)

        def nobody_else(image):
            for auth in (*secret(USER, "a-guess"), None):
                told = []
                self.assert_past(mirror, lambda: told.append(self.refused(lambda: node.pull(image, PORT, auth=auth))))
                self.assertIn("401 Unauthorized" if auth else "pull access denied, repository does not exist or may require", told[0])
                self.assertNotIn("a-guess", told[0])

        for image in images:
            nobody_else(image)
            for auth in secret(USER, PASSWORD):  # cold, warm
                self.assert_through(mirror, lambda: node.pull(image, PORT, auth=auth), image.blobs)
                node.check(image, PORT)
                node.remove(image)
            nobody_else(image)
        registry.process.stop()
        for image in images:
            for auth in secret(USER, PASSWORD):
                self.assert_through(mirror, lambda: node.pull(image, PORT, auth=auth), image.blobs)
                node.remove(image)
            nobody_else(image)
        self.assertEqual(hub.exchanges, [])
        for text in (PASSWORD, "a-guess"):
            self.assertNotIn(text, mirror.log())

    def test_a_mirror_with_users(self):
        """The node's own login stands in hosts.toml, as docs/OPERATIONS.md has it; a pod's secret is for the registry alone, and
        replaces it only where the registry's content is for its own users."""
        app = SITE.push("rs-node-users", [("node-users", 100 * KIB)], repository="acme/users")
        registry = Registry(f"{self.name}.registry", self.folder / "registry", SITE.storage, password=True)
        self.addCleanup(registry.process.stop)
        (self.folder / "htpasswd").write_text(HTPASSWD.replace(USER, "node-1"))
        hub = self.upstream()
        rules = [{"who": ["anyone"], "pull": [PORT]}, {"who": ["signed-in"]}]
        mirror = self.mirror(
            {"docker.io": hub, PORT: {"url": f"http://127.0.0.1:{registry.port}", "visibility": "caller"}},
            access={"htpasswd": str(self.folder / "htpasswd"), "rule": rules})

        def header(password):
            login = base64.b64encode(f"node-1:{password}".encode()).decode()
            return f'[host."http://{mirror.address}".header]\n  Authorization = "Basic {login}"\n'

        node = self.node(mirror, more=header(PASSWORD))
        pod = {1: "pod", 2: "a-secret-of-docker.io"}
        for auth in (None, pod):
            self.assert_through(mirror, lambda: node.pull(SITE.docker, auth=auth), SITE.docker.blobs)
            node.check(SITE.docker)
            node.remove(SITE.docker)
        self.assertEqual(mirror.metric("roadstead_password_checks_total"), 1, "the pod's was not tried, the node's once")
        self.assertIn("identity=node-1", mirror.log().replace('"', ""))
        self.refused(lambda: node.pull(app, PORT), "pull access denied")
        self.assert_through(mirror, lambda: node.pull(app, PORT, auth={1: USER, 2: PASSWORD}), app.blobs)
        node.check(app, PORT)
        self.assertEqual(mirror.metric("roadstead_password_checks_total"), 1)
        # Without a login that the mirror takes, the registry itself is what is left.
        node.mirrors(mirror.clients("containerd"), header("wrong"))
        self.assert_past(mirror, lambda: node.pull(SITE.docker))
        node.check(SITE.docker)
        for text in (PASSWORD, pod[2]):
            self.assertNotIn(text, mirror.log())

    def test_tls_with_certificates(self):
        """A private authority (`ca`) for the mirror, and a certificate by which it knows the node (`client`)."""
        (self.folder / "tls").mkdir()
        authority, certificate, key = certificates(self.folder / "tls")
        pair = [str(path) for path in client_certificate(self.folder / "tls", "node-1")]
        hub = self.upstream()
        port = free_port()
        tls = {"cert": str(certificate), "key": str(key), "client_ca": str(authority)}
        mirror = self.mirror({"docker.io": hub}, port=port, server={"listen": f"127.0.0.1:{port}", "tls": tls},
                             access={"rule": [{"who": ["cert:node-*"]}]})
        node = self.node(mirror, more=f'  ca = "{authority}"\n  client = [["{pair[0]}", "{pair[1]}"]]\n')
        self.assert_through(mirror, lambda: node.pull(SITE.docker), SITE.docker.blobs)
        node.check(SITE.docker)
        node.remove(SITE.docker)
        self.assertIn("identity=cert:node-1", mirror.log().replace('"', ""))
        for more in (f'  ca = "{authority}"\n', ""):
            node.mirrors(mirror.clients("containerd"), more)
            self.assert_past(mirror, lambda: node.pull(SITE.docker))
            node.check(SITE.docker)
            node.remove(SITE.docker)

    def test_pods_at_once(self):
        """Two nodes begin four images each at one time: what the images share, and what the nodes share, comes once."""
        images = [SITE.push(f"rs-pod-{number}", [BASE, (f"pod-{number}", 4 * MIB)]) for number in range(4)]
        hub = self.upstream()
        hub.rate = 20 * MIB  # slow enough that all overlap
        mirror = self.mirror({"docker.io": hub})
        nodes = [self.node(mirror, f"node{number}") for number in range(2)]
        pulls = [(node, image) for image in images for node in nodes]
        with ThreadPoolExecutor(len(pulls)) as pool:
            list(pool.map(lambda pull: pull[0].pull(pull[1]), pulls))
        for node, image in pulls:
            node.check(image)
        self.assert_fetched_once(hub, {digest: size for image in images for digest, size in image.blobs.items()})
        self.assertEqual(hub.count("GET", "manifests"), len(images))

    def test_containerd_is_killed_in_the_middle(self):
        """The download goes on without it, and the next attempt gets the rest."""
        image = SITE.push("rs-node-killed", [("node-killed", 24 * MIB), ("node-killed-small", 100 * KIB)])
        hub = self.upstream()
        hub.rate = 8 * MIB
        mirror = self.mirror({"docker.io": hub})
        node = self.node(mirror)
        large = max(image.layers, key=lambda layer: layer.size)
        ended = threading.Event()

        def pull():
            try:
                node.pull(image)
            except AssertionError:
                ended.set()

        pulling = threading.Thread(target=pull)
        pulling.start()
        ingest = node.root / "io.containerd.content.v1.content" / "ingest"

        def in_the_middle():
            return any(path.stat().st_size > 4 * MIB for path in ingest.glob("*/data"))

        wait_until(in_the_middle, "the node has a part of the layer")
        node.process.kill()
        pulling.join()
        self.assertTrue(ended.is_set(), "the pull had ended before; the test would prove nothing")
        self.assertLess(sum(end - start for start, end in hub.spans(large.digest)), large.size)
        node.start()
        node.pull(image)
        node.check(image)
        self.assertIn(f"reference={large.digest} status=206", mirror.log(), "the node went on where it was")
        self.assert_fetched_once(hub, image.blobs)
        self.assertEqual(mirror.wrongly_published(), [])

    def test_registries_yaml_of_k3s(self):
        """What `roadstead clients k3s` prints, in both forms that K3s gives to containerd: `mirrors` of the CRI plugin, as it did
        for long and old nodes have, and hosts.toml. The mirror learns which registry is meant; without it that is asked itself."""
        hub, other = self.upstream(), self.upstream()
        mirror = self.mirror({"docker.io": hub, PORT: other})
        mirrors = {name: entry["endpoint"] for name, entry in yaml.safe_load(mirror.clients("k3s"))["mirrors"].items()}
        old = "".join(f'[plugins."io.containerd.grpc.v1.cri".registry.mirrors."{name}"]\nendpoint = {urls}\n'
                      for name, urls in mirrors.items())
        nodes = [self.node(called="old", registry=old), self.node(called="new")]
        for name, urls in mirrors.items():
            itself = "registry-1.docker.io" if name == "docker.io" else name
            nodes[1].mirror(name, f'server = "https://{itself}/v2"\n' + "".join(
                f'[host."{url}/v2"]\ncapabilities = ["pull", "resolve"]\n' for url in urls))
        app = SITE.push("rs-k3s", [("k3s", 100 * KIB)], repository="acme/k3s")
        pods = [(SITE.docker, "docker.io", hub), (app, PORT, other)]
        for node in nodes:
            for image, registry, upstream in pods:
                self.assert_through(mirror, lambda: node.pull(image, registry), image.blobs)
                node.check(image, registry)
                node.remove(image)
                self.assert_fetched_once(upstream, image.blobs)
        mirror.stop()
        for node in nodes:
            for image, registry, upstream in pods:
                upstream.reset()
                node.pull(image, registry)
                node.check(image, registry)
                self.assertEqual(set(upstream.blob_gets()), set(image.blobs))
