"""Two sites: what the connected one prefetches and exports, the gapped one imports, and clients pull it with no upstream."""

import http.client
import json
import os
import random
import shutil
import subprocess
import tarfile
import unittest

from harness.engines import Containerd, Docker, Podman, Skopeo
from harness.images import digest_of
from harness.process import REPOSITORY, free_port, run, wait_until
from harness.site import BASE, BINARY, KIB, MIB, SITE, ClientTest

TWO_SITES = REPOSITORY / "deploy" / "airgap" / "two-sites"


def keys(folder, name):
    key, public = folder / f"{name}.key", folder / f"{name}.pub"
    run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key])
    run(["openssl", "pkey", "-in", key, "-pubout", "-out", public])
    return key, public


def roadstead(*words, env=None, check=True):
    done = subprocess.run([str(word) for word in (BINARY, *words)], capture_output=True, text=True,
                          env=os.environ | (env or {}), timeout=300)
    if check and done.returncode != 0:
        raise AssertionError(f"roadstead {words} ended with {done.returncode}: {done.stderr}")
    return done


class TwoSites(ClientTest):
    def setUp(self):
        super().setUp()
        self.medium = self.folder / "medium"
        self.medium.mkdir()
        self.sign_key, self.public = keys(self.folder, "site")

    def sites(self):
        self.upstream_proxy = self.upstream()
        connected = self.mirror({"docker.io": self.upstream_proxy})
        self.gap_port = free_port()
        self.folder = self.folder / "gap"
        gapped = self.mirror({}, port=self.gap_port, cache={
            "dir": str(self.folder / "mirror" / "cache"), "offline": True, "max_size": "20GiB", "min_free": "1%"},
            **{"import": {"verify_key": str(self.public)}})
        return connected, gapped

    def two_sites(self, side, mirror):
        env = os.environ | {"ROADSTEAD": str(BINARY), "SIGN_KEY": str(self.sign_key), "VERIFY_KEY": str(self.public)}
        done = subprocess.run([str(TWO_SITES), side, str(self.medium), "--config", str(mirror._config)], capture_output=True,
                              text=True, env=env, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def test_three_rounds(self):
        connected, gapped = self.sites()
        address = f"127.0.0.1:{self.gap_port}"
        containerd = Containerd(f"{self.name}.containerd", self.folder / "c", {"docker.io": (f"http://{address}", False)})
        self.addCleanup(containerd.process.stop)
        clients = [Skopeo(self.folder / "s", {"docker.io": address}), Podman(self.folder / "p", {"docker.io": address}),
                   containerd]
        images = [SITE.oci, SITE.index]
        sizes = []
        for turn in range(3):
            images.append(SITE.push(f"rs-gap-{turn}", [BASE, (f"gap-{turn}", 3 * MIB)]))
            # The second round brings what the gapped site's clients wanted.
            listed = images if turn != 1 else images[:-1]
            (self.medium / "images.txt").write_text("".join(f"{image.reference()}\n" for image in listed))
            self.two_sites("connected", connected)
            self.two_sites("gapped", gapped)
            sizes.append((self.medium / "site.tar").stat().st_size)
            if turn == 1:
                image = images[-1]
                with self.assertRaises(Exception):
                    clients[0].pull(image)
                status, headers, body = gapped.get(f"/v2/{image.repository}/manifests/{image.tag}?ns=docker.io")
                self.assertEqual(status, 404)
                message = json.loads(body)["errors"][0]["message"]
                self.assertIn(f"roadstead prefetch {image.reference()}", message)
                for _ in range(30):
                    wanted = roadstead("wanted", "--config", gapped._config).stdout
                    if wanted:
                        break
                    subprocess.run(["sleep", "0.2"])
                self.assertIn(image.reference(), wanted)
                (self.medium / "wanted.txt").write_text(wanted)
                self.two_sites("connected", connected)
                self.two_sites("gapped", gapped)
                self.assertEqual((self.medium / "wanted.txt").read_text(), "")
            for image in images:
                for client in clients:
                    client.pull(image)
                    client.check(image)
                    client.remove(image)
                status, headers, _ = gapped.get(f"/v2/{image.repository}/manifests/{image.tag}?ns=docker.io")
                self.assertEqual((status, headers["Warning"]), (200, None), "an imported tag is fresh")
        self.assertGreater(sizes[0], 64 * MIB)
        self.assertLess(sizes[2], 8 * MIB, "a later bundle has only what is new")
        self.assertEqual(gapped.wrongly_published(), [])

    def test_bad_bundles_leave_nothing(self):
        connected, gapped = self.sites()
        roadstead("prefetch", "--config", connected._config, SITE.docker.reference(), SITE.index.reference())
        good = self.folder / "good.tar"

        def export(to, key=self.sign_key, *more):
            roadstead("export", "--config", connected._config, "--all", "-o", to, "--sign", key, *more)

        export(good)
        again = self.folder / "again.tar"
        export(again)
        self.assertEqual(good.read_bytes(), again.read_bytes(), "two exports are the same bytes")
        data = bytearray(good.read_bytes())
        bad = {}
        for name, change in {
            "damaged": lambda: data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:],
            "truncated": lambda: data[:len(data) * 2 // 3],
        }.items():
            bad[name] = self.folder / f"{name}.tar"
            bad[name].write_bytes(change())
        bad["reordered"] = self.folder / "reordered.tar"
        with tarfile.open(good) as old, tarfile.open(bad["reordered"], "w") as new:
            for member in sorted(old.getmembers(), key=lambda member: not member.name.startswith("blobs")):
                new.addfile(member, old.extractfile(member) if member.isfile() else None)
        bad["signed by another"] = self.folder / "other.tar"
        export(bad["signed by another"], keys(self.folder, "other")[0])
        bad["unsigned"] = self.folder / "unsigned.tar"
        roadstead("export", "--config", connected._config, "--all", "-o", bad["unsigned"])
        expected = {"damaged": "damaged", "truncated": "truncated", "reordered": "reordered",
                    "signed by another": "another key", "unsigned": "not signed"}
        stopped = self.folder / "stopped"
        for name, bundle in bad.items():
            for words in (["--config", gapped._config],
                          ["--cache-dir", stopped, "--verify-key", self.public]):
                done = roadstead("import", *words, bundle, check=False)
                self.assertEqual(done.returncode, 1, name)
                self.assertIn(expected[name], done.stderr, name)
            self.assertEqual(gapped.published(), [], name)
            self.assertEqual([path for path in stopped.glob("blobs/*/*")] + [path for path in stopped.glob("ingest/*")], [], name)
        # And the parts of a split one, in the wrong order.
        split = self.folder / "split.tar"
        export(split, self.sign_key, "--split", "1MiB")
        parts = sorted(self.folder.glob("split.tar.[0-9]*"))
        self.assertGreater(len(parts), 3)
        done = roadstead("import", "--config", gapped._config, parts[1], parts[0], check=False)
        self.assertEqual((done.returncode, "in order" in done.stderr), (1, True), done.stderr)
        swapped = [self.folder / f"swapped.tar.{number:03}" for number in range(len(parts))]
        for source, target in zip([parts[0], parts[2], parts[1], *parts[3:]], swapped):
            shutil.copy(source, target)
        done = roadstead("import", "--config", gapped._config, *swapped, check=False)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertEqual(gapped.published(), [])
        # The good ones, in the end.
        roadstead("import", "--config", gapped._config, *parts)
        before = len(gapped.published())
        self.assertIn("unchanged", roadstead("import", "--config", gapped._config, good).stdout)
        self.assertEqual(len(gapped.published()), before)
        self.assertEqual(gapped.wrongly_published(), [])

    def test_other_tools_and_their_archives(self):
        connected, _ = self.sites()
        image = SITE.push("rs-gap-tools", [BASE, ("tools", 300 * KIB)])
        roadstead("prefetch", "--config", connected._config, image.reference(), SITE.docker.reference())
        bundle = self.folder / "one.tar"
        roadstead("export", "--config", connected._config, image.reference(), "-o", bundle)
        roadstead("pin", "--config", connected._config, image.reference())
        pinned = self.folder / "pinned.tar"
        roadstead("export", "--config", connected._config, "--pinned", "-o", pinned)
        self.assertEqual(pinned.read_bytes(), bundle.read_bytes(), "what is pinned is the one image")
        docker = self.folder / "docker.tar"
        roadstead("export", "--config", connected._config, SITE.docker.reference(), "-o", docker)

        def skopeo(source, into):
            run(["skopeo", "--insecure-policy", "copy", source, f"dir:{self.folder / into}"])

        skopeo(f"oci-archive:{bundle}:{image.reference()}", "by-skopeo")
        self.assertEqual((self.folder / "by-skopeo" / "manifest.json").read_bytes(), (image.folder / "manifest.json").read_bytes())
        # skopeo reads images of Docker's formats from Docker's archives only.
        skopeo(f"docker-archive:{docker}:{SITE.docker.reference()}", "docker-by-skopeo")
        containerd = Containerd(f"{self.name}.containerd", self.folder / "c", {})
        self.addCleanup(containerd.process.stop)
        ctr = ["ctr", "--address", containerd.socket, "--namespace", "tests"]
        run([*ctr, "images", "import", bundle])
        run([*ctr, "images", "import", docker])
        self.assertIn(image.digest, run([*ctr, "images", "ls"]))
        podman = Podman(self.folder / "p", {})
        for archive, loaded in ((bundle, image), (docker, SITE.docker)):
            podman._run("load", "--input", archive)
            self.assertIn(loaded.repository, podman._run("images"))
        folder = self.folder / "layout"
        folder.mkdir()
        roadstead("export", "--config", connected._config, image.reference(), "-o", folder)
        run(["skopeo", "--insecure-policy", "copy", f"oci:{folder}:{image.reference()}", f"dir:{self.folder / 'by-folder'}"])
        packed = self.folder / "one.tar.zst"
        roadstead("export", "--config", connected._config, image.reference(), "-o", packed)
        # Theirs.
        theirs = {}
        for kind, suffix in (("oci-archive", "library/theirs:1"), ("docker-archive", "docker.io/library/theirs:1")):
            theirs[kind] = self.folder / f"{kind}.tar"
            run(["skopeo", "--insecure-policy", "copy", f"dir:{image.folder}", f"{kind}:{theirs[kind]}:{suffix}"])
        exported = self.folder / "ctr.tar"
        run([*ctr, "images", "export", exported, image.reference()])
        theirs["containerd"] = exported
        engine = Docker(f"{self.name}.dockerd", self.folder / "d", f"http://{connected.address}", containerd)
        self.addCleanup(engine.process.stop)
        engine.pull(SITE.docker)
        theirs["docker save"] = self.folder / "saved.tar"
        engine._docker("save", "--output", theirs["docker save"], SITE.docker.reference())
        theirs["packed"] = packed
        for name, archive in theirs.items():
            cache = self.folder / f"cache-{name}"
            done = roadstead("import", "--cache-dir", cache, archive)
            self.assertIn("1 images", done.stdout, name)
            done = roadstead("import", "--cache-dir", cache, "--platform", "linux/s390x", archive, check=False)
            self.assertIn("linux/s390x", done.stderr, name)

    def test_prefetch_from_everywhere(self):
        upstream = self.upstream()
        mirror = self.mirror({"docker.io": upstream})
        tags = ["3.1", "3.2", "4.0"]
        for tag in tags:
            SITE.registry.push(SITE.docker, "library/rs-tags", tag)
        SITE.docker.repository, SITE.docker.tag = "library/rs-docker", "1"
        here = roadstead("prefetch", "--config", mirror._config, "rs-tags:3.*")
        self.assertIn("2 images, 0 missing", here.stdout)
        # One platform of two, into a stopped mirror's folder; then again, which costs no byte.
        stopped = self.folder / "stopped.toml"
        stopped.write_text(mirror._config.read_text().replace(str(mirror.cache), str(self.folder / "stopped")))
        roadstead("prefetch", "--config", stopped, "--platform", "linux/riscv64", SITE.index.reference())
        self.assertEqual(len([path for path in (self.folder / "stopped").glob("blobs/*/*")]), 5)
        upstream.reset()
        roadstead("prefetch", "--config", stopped, "--platform", "linux/riscv64", SITE.index.reference())
        self.assertEqual((upstream.count("GET", "blobs"), upstream.count("GET", "manifests")), (0, 0))
        # A platform, an image, an upstream that are not there: told, and the status says so.
        for words, expected in ((["--platform", "linux/s390x", SITE.index.reference()], "only linux/"),
                                (["rs-none:1"], "has no tag 1"), (["nowhere.example/x:1"], "there is no upstream")):
            done = roadstead("prefetch", "--config", stopped, *words, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(expected, done.stdout)
        compose = self.folder / "compose.yaml"
        compose.write_text("services: {a: {image: '${IMAGE:-rs-tags}:4.0'}}\n")
        pod = self.folder / "pod.yaml"
        pod.write_text(f"kind: Pod\nspec:\n  containers:\n  - image: {SITE.docker.reference()}\n")
        done = roadstead("prefetch", "--config", stopped, "--from-compose", compose, "--from-manifests", pod,
                         "--from-server", f"http://127.0.0.1:{mirror.admin_port}")
        self.assertIn("4 images, 0 missing", done.stdout)

    def test_a_schedule_brings_what_refers_to_an_image(self):
        """`[[prefetch]]` of a running mirror, with a signature as clients without a referrers API push it; carried along."""
        image = SITE.push("rs-signed", [("signed", 200 * KIB)])
        signature, *parts = self.sign(image)
        connected, gapped = self.sites()
        connected.stop()
        with connected._config.open("a") as config:
            config.write(f'\n[[prefetch]]\nimages = "{image.reference()}"\nwith_referrers = true\nevery = "1h"\n')
        connected.start()
        wanted = {digest[7:] for digest in (image.digest, signature, *parts, *image.blobs)}
        wait_until(lambda: wanted <= {path.name for path in connected.published()}, "the schedule has brought all of it")
        bundle = self.folder / "signed.tar"
        roadstead("export", "--config", connected._config, image.reference(), "-o", bundle, "--sign", self.sign_key)
        roadstead("import", "--config", gapped._config, bundle)
        status, _, body = gapped.get(f"/v2/{image.repository}/referrers/{image.digest}")
        self.assertEqual((status, [entry["digest"] for entry in json.loads(body)["manifests"]]), (200, [signature]))
        for path in (f"manifests/{signature}", *(f"blobs/{part}" for part in parts)):
            self.assertEqual(gapped.get(f"/v2/{image.repository}/{path}")[0], 200, path)

    def sign(self, image):
        """Pushes a signature of an image under the tag made of its digest: the digests of its manifest, payload and config."""
        oci = "application/vnd.oci.image."

        def put(path, data, kind, method="PUT"):
            connection = http.client.HTTPConnection("127.0.0.1", SITE.registry.port, timeout=60)
            connection.request(method, path, body=data, headers={"Content-Type": kind})
            answer = connection.getresponse()
            answer.read()
            self.assertIn(answer.status, (201, 202), path)
            return answer.headers["Location"]

        def blob(data):
            place = put(f"/v2/{image.repository}/blobs/uploads/", b"", "application/octet-stream", "POST")
            place = place[place.index("/v2/"):]
            put(f"{place}&digest={digest_of(data)}", data, "application/octet-stream")
            return {"mediaType": oci + "layer.v1.tar", "digest": digest_of(data), "size": len(data)}

        payload, config = blob(random.randbytes(1000)), blob(b"{}")
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config | {"mediaType": oci + "config.v1+json"},
            "layers": [payload]}).encode()
        put(f"/v2/{image.repository}/manifests/{digest_of(manifest)}", manifest, oci + "manifest.v1+json")
        entry = {"mediaType": oci + "manifest.v1+json", "digest": digest_of(manifest), "size": len(manifest)}
        index = json.dumps({"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": [entry]}).encode()
        put(f"/v2/{image.repository}/manifests/{image.digest.replace(':', '-')}", index, oci + "index.v1+json")
        return digest_of(manifest), payload["digest"], config["digest"]


if __name__ == "__main__":
    unittest.main()
