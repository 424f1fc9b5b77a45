"""Debian's docker-registry as the upstream: plain, with a password, or over TLS with a private authority."""

import json
import subprocess

from .process import Process, free_port, listens, run, wait_until

USER, PASSWORD = "puller", "s3cret-of-the-tests"
# bcrypt of PASSWORD, made once by `htpasswd -nbB`.
HTPASSWD = f"{USER}:$2y$04$nnULjcs.LRXxzwr6vP22veWSBzyi89SULAKuKhc4IZCox9tuoDANC\n"


class Registry:
    """One registry over `storage`. Several may share it: the same images, by other doors."""

    def __init__(self, name, folder, storage, password=False, tls=False):
        self.port = free_port()
        self.password = password
        folder.mkdir()
        # JSON is YAML, so the standard library can write it.
        config = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(storage)}, "cache": {"blobdescriptor": "inmemory"}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
        }
        if password:
            (folder / "htpasswd").write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
        if tls:
            self.authority, certificate, key = certificates(folder)
            config["http"]["tls"] = {"certificate": str(certificate), "key": str(key)}
        (folder / "config.yml").write_text(json.dumps(config))
        self.process = Process(name, ["docker-registry", "serve", folder / "config.yml"])
        wait_until(lambda: listens(self.port), "the registry listens", process=self.process)

    def push(self, image, repository, tag="1"):
        """Pushes an image, with every platform of an index, and notes in it where it went."""
        run(["skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false",
             f"dir:{image.folder}", f"docker://127.0.0.1:{self.port}/{repository}:{tag}"])
        image.repository, image.tag = repository, tag
        return image


def certificates(folder):
    """An authority, and a certificate for 127.0.0.1 that it signed: (authority, certificate, key)."""
    _openssl("req", "-x509", *_NEW_KEY, "-days", 2, "-subj", "/CN=Roadstead tests", "-keyout", folder / "ca.key",
             "-addext", "keyUsage=critical,keyCertSign", "-out", folder / "ca.pem")
    return folder / "ca.pem", *_signed(folder, "tls", "upstream", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")


def client_certificate(folder, name):
    """A certificate by which a client is `name`, signed by the authority that `certificates` made there: (certificate, key)."""
    return _signed(folder, name, name, "extendedKeyUsage=clientAuth\n")


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def _signed(folder, file, name, extensions):
    certificate, key, request = (folder / f"{file}.{suffix}" for suffix in ("pem", "key", "csr"))
    _openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    (folder / "extensions").write_text(extensions)
    _openssl("x509", "-req", "-in", request, "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-CAcreateserial",
             "-days", 2, "-extfile", folder / "extensions", "-out", certificate)
    return certificate, key
