"""The mirror is killed, stopped and restarted under load; what it published stays right and clients get on."""

import hashlib
import random
import threading
import time
from contextlib import closing

from harness.engines import Podman, Skopeo
from harness.process import CommandFailed, wait_until
from harness.site import MIB, SITE, ClientTest

KILLS = 15


class Faults(ClientTest):
    def setUp(self):
        super().setUp()
        self.source = self.upstream()
        self.served = self.mirror({"docker.io": self.source})

    def test_kill_9_in_a_loop(self):
        """I1: whenever it dies, every file under `blobs/` hashes to its name, and pulls work afterwards."""
        seed = random.randrange(1 << 32)
        chance = random.Random(seed)
        images = [SITE.push(f"rs-kill-{number}", [(f"kill-{number}-{part}", size * MIB) for part, size in enumerate((1, 4, 9))])
                  for number in range(10)]
        self.source.rate = 4 * MIB
        client = Skopeo(self.folder / "skopeo", {"docker.io": self.served.address})
        over = threading.Event()

        def load(place):
            order = random.Random(f"{seed}-{place}")
            while not over.is_set():
                try:
                    client.pull(order.choice(images), into=place)
                except CommandFailed:
                    time.sleep(0.05)  # the mirror has just been killed; a node would try again, too

        threads = [threading.Thread(target=load, args=(f"load-{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        in_the_middle = 0
        try:
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.1, 0.9))
                self.served.kill()
                in_the_middle += bool(self.served.in_flight())
                self.assertEqual(self.served.wrongly_published(), [], f"seed {seed}")
                self.served.start()
        finally:
            over.set()
            self.source.rate = None
            for thread in threads:
                thread.join()
        self.assertGreater(in_the_middle, KILLS // 3, "too few kills hit a download; the test would prove nothing")
        self.assertGreater(len(self.served.published()), 0, "nothing was published between the kills")
        for image in images:
            client.pull(image)
            client.check(image)
        self.source.stop()
        podman = Podman(self.folder / "podman", {"docker.io": self.served.address})
        podman.pull(images[0])
        podman.check(images[0])
        self.assertEqual(self.served.wrongly_published(), [])

    def test_restart_resumes_the_download(self):
        """What a killed mirror had of a blob is not fetched again: the upstream sees a Range from there."""
        image = SITE.push("rs-resume", [("resume", 48 * MIB)])
        (layer,) = image.layers
        self.source.rate = 24 * MIB
        client = Skopeo(self.folder / "skopeo", {"docker.io": self.served.address})
        connection, answer = self.served.open(f"/v2/library/rs-resume/blobs/{layer.digest}")
        with closing(connection):
            answer.read(24 * MIB)
            self.served.kill()
        self.source.rate = None
        self.source.reset()
        self.served.start()
        client.pull(image)
        client.check(image)
        spans = self.source.spans(layer.digest)
        self.assertTrue(spans, "the killed mirror had the whole blob; the test would prove nothing")
        self.assertGreater(spans[0][0], 0, "the download began again from nothing")
        self.assertEqual(spans[-1][1], layer.size)

    def test_sigterm_lets_a_body_finish(self):
        """After SIGTERM no new connection is taken, the running answer ends whole, and the exit status is 0."""
        image = SITE.push("rs-stop", [("stop", 32 * MIB)])
        (layer,) = image.layers
        self.source.rate = 12 * MIB
        connection, answer = self.served.open(f"/v2/library/rs-stop/blobs/{layer.digest}")
        with closing(connection):
            body = hashlib.sha256(answer.read(4 * MIB))
            self.served.terminate()
            wait_until(self.refuses, "new connections are refused", timeout=10)
            rest = answer.read()
            body.update(rest)
        self.assertEqual(4 * MIB + len(rest), layer.size)
        self.assertEqual(f"sha256:{body.hexdigest()}", layer.digest)
        self.assertEqual(self.served.wait(timeout=20), 0)
        self.assertEqual(self.served.wrongly_published(), [])
        self.source.stop()
        self.served.start()
        status, _, cached = self.served.get(f"/v2/library/rs-stop/blobs/{layer.digest}")
        self.assertEqual((status, len(cached)), (200, layer.size), "what was finished is kept")

    def refuses(self):
        try:
            connection, _ = self.served.open("/v2/")
        except OSError:
            return True
        connection.close()
        return False

    def test_starts_and_serves_with_no_upstream(self):
        """A restart on a full cache with the upstream gone: everything that was pulled is served."""
        client = Skopeo(self.folder / "skopeo", {"docker.io": self.served.address})
        client.pull(SITE.index)
        self.source.stop()
        self.served.stop()
        self.served.start()
        client.pull(SITE.index)
        client.check(SITE.index)

    def test_upstream_dies_and_comes_back_in_the_middle(self):
        """The upstream's connections break while a client downloads: the mirror resumes, the client sees nothing."""
        image = SITE.push("rs-flaky", [("flaky", 24 * MIB)])
        (layer,) = image.layers
        self.source.rate = 12 * MIB
        connection, answer = self.served.open(f"/v2/library/rs-flaky/blobs/{layer.digest}")
        with closing(connection):
            body = hashlib.sha256(answer.read(2 * MIB))
            self.source.stop()
            self.source.start()
            body.update(answer.read())
        self.assertEqual(f"sha256:{body.hexdigest()}", layer.digest)
        self.assertGreaterEqual(self.served.metric("roadstead_fill_resumes_total", upstream="docker.io"), 1)
        self.assertGreater(max(start for start, _ in self.source.spans(layer.digest)), 0, "resumed by Range")
