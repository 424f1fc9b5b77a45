"""The clients: each can pull, remove, and say what it now holds. None of them can reach anything but the mirror."""

import base64
import hashlib
import json
import shutil

from .process import Process, run, wait_until

NOWHERE = "127.0.0.1:1"
# A daemon that would go round the mirror to the public registry ends here instead.
_NO_WAY_OUT = {"HTTP_PROXY": f"http://{NOWHERE}", "HTTPS_PROXY": f"http://{NOWHERE}", "NO_PROXY": "127.0.0.1"}


def _expect(name, found, wanted):
    if found != wanted:
        raise AssertionError(f"{name}: {found} is not {wanted}")


def registries_conf(path, mirrors, authority=None):
    """Writes a registries.conf: for each registry one mirror, and a primary that is nowhere. With an `authority` mirrors speak
    TLS, and it alone is believed."""
    insecure = "false" if authority else "true"
    entries = [
        f'[[registry]]\nprefix = "{registry}"\nlocation = "{NOWHERE}"\ninsecure = true\n'
        f'[[registry.mirror]]\nlocation = "{location}"\ninsecure = {insecure}\n' for registry, location in mirrors.items()]
    path.write_text("unqualified-search-registries = []\nshort-name-mode = \"disabled\"\n" + "\n".join(entries))
    return {"CONTAINERS_REGISTRIES_CONF": str(path)} | ({"SSL_CERT_FILE": str(authority)} if authority else {})


def _auth(folder, mirrors, login):
    """Options that have containers/image sign in to the mirrors: a login on the command line is for the registry alone."""
    if not login:
        return []
    auth = base64.b64encode(login.encode()).decode()
    path = folder / "auth.json"
    path.write_text(json.dumps({"auths": {location: {"auth": auth} for location in mirrors.values()}}))
    return ["--authfile", path]


class Skopeo:
    """`skopeo copy` to a folder: the bytes as they came, every platform of an index."""

    def __init__(self, folder, mirrors, authority=None):
        folder.mkdir(parents=True)
        self._folder, self._mirrors = folder, mirrors
        self._registries_conf = folder / "registries.conf"
        self._environment = registries_conf(self._registries_conf, mirrors, authority)

    def pull(self, image, registry="docker.io", into="image", timeout=180, login=None):
        target = self._folder / into
        shutil.rmtree(target, ignore_errors=True)
        run(["skopeo", "--insecure-policy", "--registries-conf", self._registries_conf, "copy", "--quiet", "--all",
             "--preserve-digests", *_auth(self._folder, self._mirrors, login), f"docker://{image.reference(registry)}", f"dir:{target}"],
            env=self._environment, timeout=timeout)

    def wants(self, image):
        return image.blobs

    def check(self, image, registry="docker.io", into="image"):
        """Every file is the one that was pushed, by name and by hash."""
        hashes = {}
        for path in (self._folder / into).iterdir():
            with open(path, "rb") as file:
                hashes[path.name] = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        hashes.pop("version")
        _expect("manifest", hashes.pop("manifest.json"), image.digest)
        for name, digest in hashes.items():
            _expect(name, f"sha256:{name.removesuffix('.manifest.json')}", digest)
        _expect("contents", set(hashes.values()), set(image.blobs) | image.manifests - {image.digest})

    def remove(self, image, registry="docker.io", into="image"):
        shutil.rmtree(self._folder / into)


class _Store:
    """podman and buildah: a containers-storage of their own."""

    command = ""

    def __init__(self, folder, mirrors, authority=None):
        folder.mkdir(parents=True)
        self._folder, self._mirrors = folder, mirrors
        environment = registries_conf(folder / "registries.conf", mirrors, authority)
        self._environment = environment | {"TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(folder / "run")}
        (folder / "run").mkdir()
        self._options = ["--root", folder / "root", "--runroot", folder / "run", "--storage-driver", "vfs"]

    def _run(self, *words, timeout=180):
        return run([self.command, *self._options, *words], env=self._environment, timeout=timeout)

    def pull(self, image, registry="docker.io", timeout=180, login=None):
        self._run("pull", "--quiet", *_auth(self._folder, self._mirrors, login), image.reference(registry), timeout=timeout)

    def wants(self, image):
        return image.for_host().blobs

    def remove(self, image, registry="docker.io"):
        self._run("rmi", image.reference(registry))


class Podman(_Store):
    """`podman pull`."""

    command = "podman"

    def __init__(self, folder, mirrors, authority=None):
        super().__init__(folder, mirrors, authority)
        self._options += ["--tmpdir", folder / "run" / "libpod", "--events-backend", "none", "--cgroup-manager", "cgroupfs"]

    def check(self, image, registry="docker.io"):
        found = json.loads(self._run("image", "inspect", image.reference(registry)))[0]
        _expect("configuration", f"sha256:{found['Id']}", image.for_host().config)
        _expect("layers", found["RootFS"]["Layers"], [layer.diff_id for layer in image.for_host().layers])
        names = {name.rpartition("@")[2] for name in found["RepoDigests"]}
        if image.digest not in names:
            raise AssertionError(f"{image.digest} is not among {names}")


class Buildah(_Store):
    """`buildah pull`."""

    command = "buildah"

    def check(self, image, registry="docker.io"):
        found = json.loads(self._run("inspect", "--type", "image", image.reference(registry)))
        _expect("configuration", f"sha256:{found['FromImageID']}", image.for_host().config)
        _expect("manifest", found["FromImageDigest"], image.for_host().digest)
        _expect("layers", found["OCIv1"]["rootfs"]["diff_ids"], [layer.diff_id for layer in image.for_host().layers])


class Containerd:
    """A containerd of its own, driven by `ctr` with a folder of hosts.toml."""

    def __init__(self, name, folder, hosts, namespace="tests", cri=None):
        """`hosts` maps a registry to the body of one `[host."URL"]` table as `(url, override_path)`. `cri`: the tables of the
        CRI plugin, which is off without them."""
        folder.mkdir(parents=True)
        self.root = folder / "root"
        self._socket = folder / "containerd.sock"
        self._hosts = folder / "hosts"
        self._namespace = namespace
        for registry, (url, override) in hosts.items():
            self.set_host(registry, url, override)
        self._name = name
        self._config = folder / "config.toml"
        disabled = ["io.containerd.internal.v1.opt"] + ([] if cri else ["io.containerd.grpc.v1.cri"])
        self._config.write_text(f"""version = 2
root = "{self.root}"
state = "{folder / "state"}"
disabled_plugins = {json.dumps(disabled)}
[grpc]
address = "{self._socket}"
[plugins."io.containerd.metadata.v1.bolt"]
content_sharing_policy = "isolated"
{cri or ""}""")  # isolated: what one namespace holds spares another no download
        self.start()

    def start(self):
        """Starts it, again after a kill, and waits until it answers."""
        self.process = Process(self._name, ["containerd", "--config", self._config], env=_NO_WAY_OUT)
        wait_until(self._answers, "containerd answers", process=self.process)

    def set_host(self, registry, url, override_path=False, authority=None, header=None):
        (self._hosts / registry).mkdir(parents=True, exist_ok=True)
        (self._hosts / registry / "hosts.toml").write_text(
            f'server = "http://{NOWHERE}"\n[host."{url}"]\ncapabilities = ["pull", "resolve"]\n'
            + ("override_path = true\n" if override_path else "")
            + (f'ca = "{authority}"\n' if authority else "")
            + (f'[host."{url}".header]\n' if header else "")
            + "".join(f"{name} = {json.dumps(value)}\n" for name, value in (header or {}).items()))

    @property
    def socket(self):
        return self._socket

    def _ctr(self, *words, namespace=None, timeout=180):
        return run(["ctr", "--address", self._socket, "--namespace", namespace or self._namespace, *words], timeout=timeout)

    def _answers(self):
        if not self._socket.exists():
            return False
        try:
            self._ctr("version", timeout=5)
        except AssertionError:
            return False
        return True

    def pull(self, image, registry="docker.io", namespace=None, timeout=180, options=()):
        self._ctr("images", "pull", *options, "--snapshotter", "native", "--hosts-dir", self._hosts, image.reference(registry),
                  namespace=namespace, timeout=timeout)

    def wants(self, image):
        return image.for_host().blobs

    def check(self, image, registry="docker.io", namespace=None):
        """The tag points at what was pushed, and the content store holds all of it, right by hash."""
        rows = [row.split() for row in self._ctr("images", "list", namespace=namespace).splitlines()]
        _expect("manifest", [row[2] for row in rows if row[0] == image.reference(registry)], [image.digest])
        self._check_content(image, namespace)

    def _check_content(self, image, namespace=None):
        listed = set(self._ctr("content", "list", "--quiet", namespace=namespace).split())
        wanted = {image.digest, image.for_host().digest, *image.for_host().blobs}
        if not wanted <= listed:
            raise AssertionError(f"the content store lacks {wanted - listed}")
        for digest in wanted:
            path = self.root / "io.containerd.content.v1.content/blobs/sha256" / digest.removeprefix("sha256:")
            with open(path, "rb") as file:
                _expect(path.name, "sha256:" + hashlib.file_digest(file, "sha256").hexdigest(), digest)

    def remove(self, image, registry="docker.io", namespace=None):
        self._ctr("images", "remove", "--sync", image.reference(registry), namespace=namespace)


class Docker:
    """A dockerd of its own with `registry-mirrors`; Docker mirrors docker.io only."""

    def __init__(self, name, folder, mirror, containerd, authority=None):
        folder.mkdir(parents=True)
        self._socket = folder / "docker.sock"
        # Neither a user's context nor a user's credentials.
        self._environment = {"DOCKER_CONFIG": str(folder), "DOCKER_HOST": f"unix://{self._socket}"}
        config = folder / "daemon.json"
        config.write_text(json.dumps({
            "registry-mirrors": [mirror], "data-root": str(folder / "data"), "exec-root": str(folder / "exec"),
            "pidfile": str(folder / "docker.pid"), "hosts": [f"unix://{self._socket}"], "containerd": str(containerd.socket),
            "iptables": False, "bridge": "none", "storage-driver": "vfs",
        }))
        self.process = Process(name, ["dockerd", "--config-file", config],
                               env=_NO_WAY_OUT | ({"SSL_CERT_FILE": str(authority)} if authority else {}))
        wait_until(self._answers, "dockerd answers", timeout=60, process=self.process)

    def _docker(self, *words, timeout=180):
        return run(["docker", *words], env=self._environment, timeout=timeout)

    def _answers(self):
        if not self._socket.exists():
            return False
        try:
            self._docker("version", timeout=5)
        except AssertionError:
            return False
        return True

    def pull(self, image, registry="docker.io", timeout=180):
        self._docker("pull", "--quiet", image.reference(registry), timeout=timeout)

    def wants(self, image):
        return image.for_host().blobs

    def check(self, image, registry="docker.io"):
        found = json.loads(self._docker("image", "inspect", image.reference(registry)))[0]
        # The Id is the configuration's digest, or with the containerd image store the manifest's.
        if found["Id"] not in (image.for_host().config, image.digest):
            raise AssertionError(f"{found['Id']} is neither {image.for_host().config} nor {image.digest}")
        _expect("layers", found["RootFS"]["Layers"], [layer.diff_id for layer in image.for_host().layers])
        _expect("manifest", [name.rpartition("@")[2] for name in found["RepoDigests"]], [image.digest])

    def remove(self, image, registry="docker.io"):
        self._docker("image", "rm", image.reference(registry))
