"""The store: its commands against real images, its limit and its files under hundreds of kills."""

import hashlib
import http.client
import json
import os
import random
import subprocess
import threading
import time
from contextlib import closing

from harness.engines import Skopeo
from harness.process import wait_until
from harness.site import BINARY, MIB, SITE, ClientTest

KILLS = int(os.environ.get("ROADSTEAD_KILLS", "40"))
LIMIT = 40 * MIB


class Store(ClientTest):
    def setUp(self):
        super().setUp()
        self.source = self.upstream()

    def command(self, mirror, *words, code=0):
        """Runs a command against a running mirror: its JSON."""
        argv = [str(BINARY), words[0], "--admin", f"127.0.0.1:{mirror.admin_port}", *words[1:]]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stderr)
        return json.loads(done.stdout) if done.stdout else done.stderr

    def test_what_operators_ask(self):
        """ls, explain, pin, purge, verify, gc: by reference, digest and pattern; pins survive a restart."""
        served = self.mirror({"docker.io": self.source})
        one = SITE.push("rs-store-one", [("store-base", 2 * MIB), ("store-one", 3 * MIB)])
        two = SITE.push("rs-store-two", [("store-base", 2 * MIB), ("store-two", 1 * MIB)])
        client = Skopeo(self.folder / "skopeo", {"docker.io": served.address})
        client.pull(one)
        client.pull(two)
        wait_until(lambda: len(served.published()) >= 7, "everything is published")

        images = self.command(served, "ls")["images"]
        names = [image["image"] for image in images]
        self.assertEqual(len([name for name in names if "rs-store-" in name]), 2, names)
        first = next(name for name in names if "rs-store-one" in name)
        self.assertEqual([image["image"] for image in self.command(served, "ls", "docker.io/library/rs-store-one*")["images"]], [first])
        self.assertTrue(all(image["cached"] and image["missing_bytes"] == 0 for image in images), images)

        told = self.command(served, "explain", first)
        self.assertTrue(told["cached"])
        base = one.layers[0].digest
        shared = {part["digest"]: part["shared_by"] for part in told["parts"]}
        self.assertEqual((shared[base], shared[one.layers[1].digest]), (1, 0))
        self.assertEqual(len(self.command(served, "explain", base)["images"]), 2)

        self.command(served, "pin", first)
        served.stop()
        served.start()
        self.assertEqual([pin["image"] for pin in self.command(served, "pin")["pins"]], [first])
        wait_until(lambda: self.command(served, "stats")["catalog"]["complete"], "the catalog is read")
        gone = self.command(served, "purge", "docker.io/**")
        self.assertEqual(gone["pinned"], [first])
        self.assertTrue((served.cache / "blobs/sha256" / base[7:]).exists(), "a pinned image keeps its layers")
        self.assertFalse((served.cache / "blobs/sha256" / two.layers[1].digest[7:]).exists())

        # A flipped bit: found, set apart, fetched again.
        path = served.cache / "blobs/sha256" / base[7:]
        damaged = bytearray(path.read_bytes())
        damaged[1000] ^= 1
        path.write_bytes(damaged)
        self.assertEqual(self.command(served, "verify", code=1)["damaged"], 1)
        wait_until(lambda: path.exists() and served.wrongly_published() == [], "the damaged layer is fetched again")
        self.assertEqual(self.command(served, "verify")["damaged"], 0)
        self.assertEqual(self.command(served, "gc", "--dry-run")["quarantined"], 1)
        self.command(served, "gc")
        self.assertEqual(list((served.cache / "quarantine").iterdir()), [])

        self.command(served, "unpin", first)
        self.command(served, "purge", first)
        self.assertEqual(served.published(), [])
        self.assertFalse(self.command(served, "explain", first)["cached"])
        served.stop()

    def test_a_quota_holds(self):
        """A pattern's content stays below its quota; other content is not evicted for it."""
        served = self.mirror({"docker.io": self.source}, **{'cache.quota."docker.io/library/rs-quota-*"': {"max_size": "6MiB"}})
        kept = SITE.push("rs-unquoted", [("unquoted", 4 * MIB)])
        limited = [SITE.push(f"rs-quota-{number}", [(f"quota-{number}", 3 * MIB)]) for number in range(4)]
        client = Skopeo(self.folder / "skopeo", {"docker.io": served.address})
        for image in [kept, *limited]:
            client.pull(image)
        here = {path.name for path in served.published()}
        self.assertIn(kept.layers[0].digest[7:], here)
        self.assertLess(sum(image.layers[0].digest[7:] in here for image in limited), 3)
        (quota,) = self.command(served, "stats")["catalog"]["quotas"]
        self.assertLessEqual(quota["bytes"], 6 * MIB)

    def test_kill_9_soak_at_the_limit(self):
        """I1, I4, I8: through kills under load and eviction, files are right, the limit holds, bodies are whole or aborted."""
        seed = random.randrange(1 << 32)
        served = self.mirror({"docker.io": self.source}, cache={
            "dir": str(self.folder / "soak"), "max_size": f"{LIMIT}", "min_free": "0%", "memory": "1MiB"})
        served.cache = self.folder / "soak"
        images = [SITE.push(f"rs-soak-{number}", [(f"soak-{number}-{part}", size * MIB) for part, size in enumerate((1, 3, 8))])
                  for number in range(8)]
        layers = [(f"/v2/library/rs-soak-{number}/blobs/{layer.digest}", layer) for number, image in enumerate(images)
                  for layer in image.layers]
        self.source.rate = 24 * MIB
        over, wrong, whole, broken = threading.Event(), [], [0], [0]

        def load(number):
            order = random.Random(f"{seed}-{number}")
            while not over.is_set():
                path, layer = order.choice(layers)
                connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
                with closing(connection):
                    try:
                        connection.request("GET", path)
                        answer = connection.getresponse()
                        body = answer.read()
                    except (OSError, http.client.HTTPException):
                        broken[0] += 1
                        time.sleep(0.02)
                        continue
                if answer.status == 200 and f"sha256:{hashlib.sha256(body).hexdigest()}" != layer.digest:
                    wrong.append((path, len(body)))
                whole[0] += answer.status == 200

        def held():
            return sum(path.stat().st_size for folder in ("blobs", "ingest", "quarantine")
                       for path in (served.cache / folder).rglob("*") if path.is_file())

        threads = [threading.Thread(target=load, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        chance, most = random.Random(seed), 0
        try:
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.05, 0.5))
                served.kill()
                most = max(most, held())
                self.assertEqual(served.wrongly_published(), [], f"seed {seed}")
                self.assertLessEqual(held(), LIMIT, f"seed {seed}")
                served.start()
        finally:
            over.set()
            self.source.rate = None
            for thread in threads:
                thread.join()
        print(f"{KILLS} kills, {whole[0]} whole bodies, {broken[0]} broken, at most {most // MIB} MiB held ", end="", flush=True)
        self.assertEqual(wrong, [], f"seed {seed}")
        self.assertGreater(whole[0], KILLS // 2)
        self.assertGreater(most, LIMIT // 2, "the limit was never near; the test would prove nothing")
