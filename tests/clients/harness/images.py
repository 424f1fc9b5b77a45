"""Images made of deterministic random bytes, written in skopeo's `dir:` layout, and what a client must find in them."""

import gzip
import hashlib
import io
import json
import os
import platform
import random
import tarfile
from dataclasses import dataclass, field

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
HOST_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_PART = 64 * 1024 * 1024


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Layer:
    """One compressed layer."""
    digest: str
    size: int
    diff_id: str


@dataclass
class Image:
    """One single-platform image, or with `children` one index, and where it was pushed."""
    folder: object
    digest: str
    repository: str = ""
    tag: str = "1"
    config: str = ""
    layers: list = field(default_factory=list)
    children: dict = field(default_factory=dict)
    blobs: dict = field(default_factory=dict)  # digest → size of configuration and layers, the children's included
    manifests: set = field(default_factory=set)  # digests, the children's included

    def for_host(self):
        """What a client on this machine unpacks: the image itself, or the index's child for this architecture."""
        return self.children[HOST_ARCHITECTURE] if self.children else self

    def reference(self, registry="docker.io"):
        return f"{registry}/{self.repository}:{self.tag}"


class Studio:
    """Makes images below one folder. The same arguments give the same bytes, in every run."""

    def __init__(self, folder):
        self._folder = folder
        self._blobs = folder / "blobs"
        self._blobs.mkdir(parents=True)
        self._made = {}

    def layer(self, seed, size):
        """A gzipped tar with one file of `size` random bytes; a seed always gives one and the same layer."""
        if (seed, size) not in self._made:
            numbers = random.Random(seed)
            # In parts of whole words, which give the same bytes as one call, and that cannot make more than 255 MiB.
            content = b"".join(numbers.randbytes(min(_PART, size - at)) for at in range(0, size, _PART))
            plain = io.BytesIO()
            with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
                entry = tarfile.TarInfo(f"data-{seed}")
                entry.size = size
                tar.addfile(entry, io.BytesIO(content))
            plain = plain.getvalue()
            # Random bytes do not shrink: level 0 only wraps them, and saves the time.
            packed = gzip.compress(plain, compresslevel=0, mtime=0)
            self._made[seed, size] = Layer(self._keep(packed), len(packed), digest_of(plain))
        return self._made[seed, size]

    def image(self, name, layers, docker=False, architecture=HOST_ARCHITECTURE):
        """An image manifest, OCI's or Docker's schema 2, over layers of the given `(seed, size)`."""
        layers = [self.layer(*layer) for layer in layers]
        config = json.dumps({
            "architecture": architecture, "os": "linux", "config": {"Env": [f"NAME={name}"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created_by": "roadstead tests"} for _ in layers],
        }).encode()
        kinds = (("distribution.manifest.v2+json", "container.image.v1+json", "image.rootfs.diff.tar.gzip") if docker
                 else ("manifest.v1+json", "config.v1+json", "layer.v1.tar+gzip"))
        manifest_type, config_type, layer_type = ((DOCKER if docker else OCI) + kind for kind in kinds)
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": manifest_type,
            "config": {"mediaType": config_type, "digest": self._keep(config), "size": len(config)},
            "layers": [{"mediaType": layer_type, "digest": layer.digest, "size": layer.size} for layer in layers],
        }, indent=2).encode()
        folder = self._layout(name, manifest)
        image = Image(folder, digest_of(manifest), config=digest_of(config), layers=layers)
        image.blobs = {image.config: len(config)} | {layer.digest: layer.size for layer in layers}
        image.manifests = {image.digest}
        for digest in image.blobs:
            self._link(folder, digest)
        return image

    def index(self, name, children, docker=False):
        """An OCI index, or Docker's manifest list, over `{architecture: image}`."""
        kind, child_kind = ((DOCKER + "distribution.manifest.list.v2+json", DOCKER + "distribution.manifest.v2+json") if docker
                            else (OCI + "index.v1+json", OCI + "manifest.v1+json"))
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": kind,
            "manifests": [{
                "mediaType": child_kind, "digest": child.digest, "size": (child.folder / "manifest.json").stat().st_size,
                "platform": {"architecture": architecture, "os": "linux"},
            } for architecture, child in children.items()],
        }, indent=2).encode()
        folder = self._layout(name, manifest)
        image = Image(folder, digest_of(manifest), children=children, manifests={digest_of(manifest)})
        for child in children.values():
            image.blobs |= child.blobs
            image.manifests |= child.manifests
            os.link(child.folder / "manifest.json", folder / f"{child.digest.removeprefix('sha256:')}.manifest.json")
        for digest in image.blobs:
            self._link(folder, digest)
        return image

    def _keep(self, data):
        digest = digest_of(data)
        (self._blobs / digest.removeprefix("sha256:")).write_bytes(data)
        return digest

    def _layout(self, name, manifest):
        folder = self._folder / name
        folder.mkdir()
        (folder / "version").write_text("Directory Transport Version: 1.1\n")
        (folder / "manifest.json").write_bytes(manifest)
        return folder

    def _link(self, folder, digest):
        os.link(self._blobs / digest.removeprefix("sha256:"), folder / digest.removeprefix("sha256:"))
