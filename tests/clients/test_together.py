"""Many at once: one download, whatever the number of clients; and the mirror's figures are true."""

from concurrent.futures import ThreadPoolExecutor

from harness.engines import Containerd, Skopeo
from harness.process import wait_until
from harness.proxy import CountingProxy
from harness.site import BASE, MIB, SITE, ClientTest

CLIENTS = 8


class Together(ClientTest):
    def pull_at_once(self, pulls):
        """Runs them all at the same time; fails as the first of them failed."""
        with ThreadPoolExecutor(len(pulls)) as pool:
            for done in [pool.submit(pull) for pull in pulls]:
                done.result()

    def setUp(self):
        super().setUp()
        self.source = self.upstream()
        # Slow enough that all the pulls overlap, on any machine.
        self.source.rate = 40 * MIB
        self.served = self.mirror({"docker.io": self.source})

    def test_skopeo_eight_cold(self):
        image = SITE.oci
        client = Skopeo(self.folder / "skopeo", {"docker.io": self.served.address})
        places = [f"copy-{number}" for number in range(CLIENTS)]
        self.pull_at_once([lambda place=place: client.pull(image, into=place) for place in places])
        for place in places:
            client.check(image, into=place)
        self.assert_fetched_once(self.source, image.blobs)
        self.assertEqual(self.source.count("GET", "manifests"), 1, self.source.exchanges)

    def test_containerd_eight_cold(self):
        """Eight namespaces that share no content are eight clients."""
        image = SITE.oci
        client = Containerd(f"{self.name}.containerd", self.folder / "containerd",
                            {"docker.io": (f"http://{self.served.address}", False)})
        self.addCleanup(client.process.stop)
        namespaces = [f"client-{number}" for number in range(CLIENTS)]
        self.pull_at_once([lambda name=name: client.pull(image, namespace=name) for name in namespaces])
        for name in namespaces:
            client.check(image, namespace=name)
        self.assert_fetched_once(self.source, image.blobs)
        served = self.served.metric("roadstead_response_bytes_total", kind="blob")
        self.assertGreaterEqual(served, CLIENTS * sum(image.blobs.values()), "each namespace downloaded for itself")

    def test_images_that_share_a_layer(self):
        """Two images pulled at once: the layer that both have is one download (I3)."""
        images = [SITE.push(f"rs-share-{number}", [BASE, (f"share-{number}", 2 * MIB)]) for number in range(4)]
        client = Skopeo(self.folder / "skopeo", {"docker.io": self.served.address})
        self.pull_at_once([lambda image=image: client.pull(image, into=image.digest[7:]) for image in images])
        for image in images:
            client.check(image, into=image.digest[7:])
        self.assert_fetched_once(self.source, {digest: size for image in images for digest, size in image.blobs.items()})

    def test_metrics_are_what_was_counted(self):
        """A second counting proxy sits before the mirror: what it saw is what the mirror says (I12)."""
        front = CountingProxy(self.served.port)
        self.addCleanup(front.stop)
        client = Skopeo(self.folder / "skopeo", {"docker.io": f"127.0.0.1:{front.port}"})
        for image in (SITE.index, SITE.docker, SITE.index):
            client.pull(image)
        wait_until(lambda: self.served.metric("roadstead_requests_total") == len(front.exchanges),
                   "as many requests are counted as were sent", timeout=5)
        for kind, label in (("manifests", "manifest"), ("blobs", "blob")):
            self.assertEqual(self.served.metric("roadstead_requests_total", kind=label), front.count("GET", kind))
            self.assertEqual(self.served.metric("roadstead_response_bytes_total", kind=label),
                             sum(each.bytes for each in front.exchanges if each.kind() == kind))
        self.assertEqual(self.served.metric("roadstead_upstream_bytes_total", upstream="docker.io"), self.source.body_bytes())
        asked = self.source.count("GET", "manifests")
        self.assertEqual(self.served.metric("roadstead_upstream_requests_total", kind="manifest", method="GET"), asked)
        self.assertEqual(self.served.metric("roadstead_pulls_saved_total"), front.count("GET", "manifests") - asked)
