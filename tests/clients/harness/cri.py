"""A node as its kubelet sees it: a containerd that pulls when it is told so by the calls of the Container Runtime Interface.

A unary gRPC call is one HTTP/2 POST with one protobuf message, and the calls for images need strings and nesting alone: curl
and the few lines below are all of a client. Fields are named by their numbers in `runtime/v1/api.proto` of kubernetes/cri-api.
"""

import base64
import re
import subprocess
import urllib.parse

from .engines import Containerd, _expect
from .process import CommandFailed

_SERVICE = "http://localhost/runtime.v1.ImageService"
_FILE = re.compile(r"^# /etc/containerd/certs\.d/(.+)/hosts\.toml\n", re.M)


class CallFailed(CommandFailed):
    """A call ended with another status than 0. A kubelet shows the text as the reason of its ErrImagePull."""


class Node(Containerd):
    """Containerd with its CRI plugin, which reads `certs.d` unless `registry` has other keys of its table."""

    def __init__(self, name, folder, registry=None):
        self.hosts = folder / "certs.d"
        plugin = 'plugins."io.containerd.grpc.v1.cri"'
        super().__init__(name, folder, {}, namespace="k8s.io", cri=f"""
[{plugin}.containerd]
snapshotter = "native"
[{plugin}.cni]
bin_dir = "{folder / "cni"}"
conf_dir = "{folder / "cni"}"
[{plugin}.registry]
{registry or f'config_path = "{self.hosts}"'}
""")

    def mirrors(self, printed, more=""):
        """Writes the files that `roadstead clients containerd` prints, each as it is and with `more` at its end."""
        _, *parts = _FILE.split(printed)
        for registry, text in zip(parts[::2], parts[1::2], strict=True):
            self.mirror(registry, text + more)

    def mirror(self, registry, text):
        """Writes one `hosts.toml`."""
        (self.hosts / registry).mkdir(parents=True, exist_ok=True)
        (self.hosts / registry / "hosts.toml").write_text(text)

    def _answers(self):
        try:
            self._call("ListImages", {}, timeout=5)
        except CommandFailed:
            return False
        return True

    def pull(self, image, registry="docker.io", name=None, auth=None, timeout=180):
        """`PullImage`, by the image's name in a pod. `auth`: an AuthConfig, which a kubelet makes of an imagePullSecret."""
        request = {1: {1: name or image.reference(registry)}} | ({2: auth} if auth else {})
        (pulled,) = self._call("PullImage", request, timeout)[1]
        _expect("image", pulled.decode(), image.for_host().config)

    def check(self, image, registry="docker.io", name=None):
        """`ImageStatus` finds it by the name that was asked for, with its full names, and the content store holds all of it."""
        name = name or image.reference(registry)
        (found,) = self._call("ImageStatus", {1: {1: name}}).get(1, [b""])
        status = _decode(found)
        _expect("configuration", [each.decode() for each in status.get(1, [])], [image.for_host().config])
        names = [] if "@" in name else [image.reference(registry)]
        names.append(f"{registry}/{image.repository}@{image.digest}")
        _expect("names", [each.decode() for each in status.get(2, []) + status.get(3, [])], names)
        self._check_content(image)

    def remove(self, image):
        """`RemoveImage`, under all its names; what no other image has of it is gone at once."""
        self._call("RemoveImage", {1: {1: image.for_host().config}})
        _expect("images", image.for_host().config.encode() in self.images(), False)

    def images(self):
        """`ListImages`: their ids."""
        return [_decode(each)[1][0] for each in self._call("ListImages", {}).get(1, [])]

    def _call(self, method, request, timeout=60):
        """One call; the fields of its answer."""
        message = _encode(request)
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket", self.socket, "--max-time", str(timeout),
             "--header", "Content-Type: application/grpc", "--header", "TE: trailers", "--dump-header", "/dev/stderr",
             "--data-binary", "@-", f"{_SERVICE}/{method}"],
            input=b"\0" + len(message).to_bytes(4) + message, capture_output=True, check=False)
        told = done.stderr.decode(errors="replace")
        # In the trailers, or in the head of an answer that is nothing but a status.
        status = re.search(r"^grpc-status: (\d+)\r?$", told, re.M)
        if done.returncode or not status:
            raise CommandFailed(f"{method}: curl ended with {done.returncode}\n{told}")
        if status[1] != "0":
            text = re.search(r"^grpc-message: (.*?)\r?$", told, re.M)
            raise CallFailed(f"{method}: status {status[1]}: {urllib.parse.unquote(text[1]) if text else ''}")
        return _decode(done.stdout[5:])


def secret(user, password):
    """An imagePullSecret in both forms of an AuthConfig. A kubelet leaves out for which registry it is: it has chosen it by
    the image's name."""
    yield {1: user, 2: password}
    yield {3: base64.b64encode(f"{user}:{password}".encode()).decode()}


def _varint(number):
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _encode(fields):
    """A message of strings and messages: `{number: value}`."""
    encoded = b""
    for number, value in fields.items():
        value = _encode(value) if isinstance(value, dict) else value.encode()
        encoded += _varint(number << 3 | 2) + _varint(len(value)) + value
    return encoded


def _decode(message):
    """`{number: [value, ...]}`: bytes of what has a length, numbers of what has none."""
    fields, at = {}, 0

    def varint():
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(message):
        key = varint()
        match key & 7:
            case 0:
                value = varint()
            case 2:
                length = varint()
                value = message[at:at + length]
                at += length
            case kind:
                raise ValueError(f"a field of wire type {kind} in {message!r}")
        fields.setdefault(key >> 3, []).append(value)
    return fields
