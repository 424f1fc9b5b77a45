#!/usr/bin/env python3
"""Runs the mirror as deploy/ confines it, and pulls through it.

There is no systemd and no container engine in a build machine, so what they would set up is set up here with the same lists: another user,
no capability, no new privileges, a read-only file system but for the cache, and a seccomp filter made of the unit's directives or of the
container's profile. Linux, root, libseccomp. Ends with `N passed, N failed`.
"""

import base64
import ctypes
import hashlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "systemd" / "roadstead.service"
PROFILE = ROOT / "deploy" / "container" / "seccomp.json"
BINARY = Path(os.environ.get("ROADSTEAD", ROOT / "target" / "debug" / "roadstead"))
NOBODY = 65532
MIB = 1 << 20

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 1, 38
OPERATIONS = {"SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}


class Comparison(ctypes.Structure):
    _fields_ = [("index", ctypes.c_uint), ("operation", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class Filter:
    """A seccomp filter; what no rule allows fails with EPERM."""

    def __init__(self, default=0x00050000 | EPERM):
        self.library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self.library.seccomp_init.restype = ctypes.c_void_p
        self.library.seccomp_init.argtypes = [ctypes.c_uint32]
        self.library.seccomp_load.argtypes = [ctypes.c_void_p]
        self.library.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Comparison)]
        self.context = self.library.seccomp_init(default)

    def rule(self, action, name, *comparisons):
        number = self.library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # Another architecture's.
        array = (Comparison * max(1, len(comparisons)))(*(Comparison(*each) for each in comparisons))
        error = self.library.seccomp_rule_add_array(self.context, action, number, len(comparisons), array)
        if error:
            raise OSError(-error, f"{name}: {os.strerror(-error)}")

    def load(self):
        error = self.library.seccomp_load(self.context)
        if error:
            raise OSError(-error, os.strerror(-error))


def of_profile():
    """The filter that a container engine makes of deploy/container/seccomp.json."""
    profile = json.loads(PROFILE.read_text())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    made = Filter()
    for entry in profile["syscalls"]:
        action = ALLOW if entry["action"] == "SCMP_ACT_ALLOW" else 0x00050000 | entry["errnoRet"]
        comparisons = [(arg["index"], OPERATIONS[arg["op"]], arg["value"], arg.get("valueTwo", 0)) for arg in entry.get("args", [])]
        for name in entry["names"]:
            made.rule(action, name, *comparisons)
    return made


def directives():
    found = {}
    for line in UNIT.read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def groups():
    """systemd's groups of system calls, expanded."""
    printed = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True).stdout
    listing, group = {}, None
    for line in printed.splitlines():
        if line.startswith("@"):
            group = line.strip()
        elif line.startswith("    ") and not line.strip().startswith("#"):
            listing.setdefault(group, set()).add(line.strip())

    def calls(name):
        return set().union(*(calls(each) if each.startswith("@") else {each} for each in listing[name])) if name[0] == "@" else {name}
    return calls


def of_unit():
    """The filter that systemd makes of the unit's directives, for a service (systemd.exec(5))."""
    unit, calls = directives(), groups()
    allowed = calls("@default")
    for value in unit["SystemCallFilter"]:
        named = set().union(*(calls(name) for name in value.lstrip("~").split()))
        allowed = allowed - (named - calls("@default")) if value.startswith("~") else allowed | named
    # What this needs to start the program, and systemd does before its filter.
    allowed.add("execve")
    special = {"mmap", "mprotect", "pkey_mprotect", "shmat", "socket", "clone", "clone3", "unshare", "setns", "sched_setscheduler", "personality"}
    made = Filter()
    for name in sorted(allowed - special):
        made.rule(ALLOW, name)
    assert unit["MemoryDenyWriteExecute"] == unit["RestrictNamespaces"] == unit["RestrictRealtime"] == unit["LockPersonality"] == ["yes"]
    write, execute = 2, 4
    for lacks in (write, execute):
        made.rule(ALLOW, "mmap", (2, OPERATIONS["SCMP_CMP_MASKED_EQ"], lacks, 0))
    made.rule(ALLOW, "mprotect", (2, OPERATIONS["SCMP_CMP_MASKED_EQ"], execute, 0))
    namespaces = 0x7E020000
    made.rule(ALLOW, "clone", (0, OPERATIONS["SCMP_CMP_MASKED_EQ"], namespaces, 0))
    made.rule(0x00050000 | ENOSYS, "clone3")
    families = {"AF_INET": 2, "AF_INET6": 10, "AF_UNIX": 1}
    for name in unit["RestrictAddressFamilies"][0].split():
        made.rule(ALLOW, "socket", (0, OPERATIONS["SCMP_CMP_EQ"], families[name], 0))
    return made


FILTERS = {"unit": of_unit, "profile": of_profile}


def confine(which, command):
    """The last step before the program: the filter, then the program itself."""
    made = FILTERS[which]()
    made.load()
    os.execv(command[0], command)


def confined(which, writable, *command):
    """A command line that runs `command` confined; it may write below `writable`."""
    script = 'mount --bind / / && mount -o remount,bind,ro / && mount --bind "$0" "$0" && mount -o remount,bind,rw "$0" && exec "$@"'
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all",
            "--ambient-caps=-all", "--no-new-privs"]
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, str(writable), *drop,
            sys.executable, str(Path(__file__).resolve()), "--confine", which, *map(str, command)]


class Registry(http.server.BaseHTTPRequestHandler):
    """An upstream: images of one layer, some of them behind a password."""

    protocol_version = "HTTP/1.1"
    content, tags = {}, {}

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/(.+)", self.path)
        body = None
        if found and found[1].startswith("private/") and self.headers["Authorization"] != "Basic " + base64.b64encode(b"ann:word").decode():
            return self.answer(401, b"{}", {"WWW-Authenticate": 'Basic realm="x"'})
        if found:
            digest = self.tags.get((found[1], found[3]), found[3])
            body = self.content.get(digest)
        if body is None:
            return self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', {})
        kind = "application/vnd.oci.image.manifest.v1+json" if found[2] == "manifests" else "application/octet-stream"
        self.answer(200, body, {"Content-Type": kind, "Docker-Content-Digest": digest})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format, *arguments):
        pass

    @classmethod
    def put(cls, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        cls.content[digest] = data
        return digest

    @classmethod
    def image(cls, repository, layer):
        config, blob = cls.put(b"{}"), cls.put(layer)
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob, "size": len(layer)}],
        }).encode()
        cls.tags[repository, "latest"] = cls.put(manifest)
        return manifest, blob


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@unittest.skipUnless(os.geteuid() == 0, "needs root, to give it up")
class Confined(unittest.TestCase):
    def setUp(self):
        # Where another user can go.
        self.folder = Path(tempfile.mkdtemp(dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        # The checkout may be in a folder that only its owner may enter.
        self.binary = self.folder / "roadstead"
        shutil.copy(BINARY, self.binary)
        self.cache = self.folder / "cache"
        self.cache.mkdir()
        os.chown(self.cache, NOBODY, NOBODY)
        self.upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
        threading.Thread(target=self.upstream.serve_forever, daemon=True).start()
        self.addCleanup(self.upstream.server_close)
        self.addCleanup(self.upstream.shutdown)

    def pulls(self, which, command=None):
        port, admin = free_port(), free_port()
        helper = self.folder / "docker-credential-confined"
        helper.write_text('#!/bin/sh\ncat > /dev/null\necho \'{"Username":"ann","Secret":"word"}\'\n')
        helper.chmod(0o755)
        config = self.folder / "config.toml"
        config.write_text(
            f'[server]\nlisten = ["127.0.0.1:{port}", "unix:{self.cache}/socket"]\n[admin]\nlisten = "127.0.0.1:{admin}"\n'
            f'[cache]\ndir = "{self.cache}/tree"\nmax_size = "12MiB"\nmin_free = "1MiB"\nmemory = "1MiB"\n'
            f'[upstream."docker.io"]\nurl = "http://127.0.0.1:{self.upstream.server_port}"\ncredentials = {{ helper = "confined" }}\n')
        log = open(self.folder / "log", "w+")
        self.addCleanup(log.close)
        environment = {"PATH": f"{self.folder}:{os.environ['PATH']}"}
        words = (command or (lambda *serve: confined(which, self.cache, *serve)))(self.binary, "serve", "--config", config)
        process = subprocess.Popen(words, env={**environment, **({"HOME": "/root"} if command else {})}, stdout=log, stderr=log, cwd="/")
        self.addCleanup(process.kill)

        def said():
            log.seek(0)
            return log.read()

        def get(path, to=port, headers={}):
            connection = http.client.HTTPConnection("127.0.0.1", to, timeout=60)
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            return answer.status, body, answer.headers["Cache-Status"]

        for _ in range(300):
            self.assertIsNone(process.poll(), said())
            try:
                if get("/readyz", admin)[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.1)
        # In a container it is not the process that was started here, but the one that listens.
        (pid,) = [process.pid] if command is None else self.processes()
        status = Path(f"/proc/{pid}/status").read_text()
        facts = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.M))
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(facts[capabilities], 16), 0, capabilities)
        self.assertEqual((facts["NoNewPrivs"], facts["Seccomp"], facts["Uid"].split()[0]), ("1", "2", str(NOBODY)))

        # Cold (a fill), warm (sendfile), a part of it, and so many that older ones go.
        for number in range(5):
            layer = hashlib.sha256(bytes([number])).digest() * (4 * MIB // 32)
            manifest, blob = Registry.image(f"team/app{number}", layer)
            self.assertEqual(get(f"/v2/team/app{number}/manifests/latest")[:2], (200, manifest), said())
            how = ""
            for _ in range(100):
                code, body, how = get(f"/v2/team/app{number}/blobs/{blob}")
                self.assertEqual((code, body == layer), (200, True), said())
                if "hit; detail=disk" in how:
                    break
                # Its last reader may be served a moment before it is published.
                time.sleep(0.05)
            self.assertIn("hit; detail=disk", how)
            self.assertEqual(get(f"/v2/team/app{number}/blobs/{blob}", headers={"Range": "bytes=5-9"})[:2], (206, layer[5:10]))
        evicted = re.search(r"^roadstead_evicted_bytes_total (\d+)", get("/metrics", admin)[1].decode(), re.M)
        self.assertGreaterEqual(int(evicted[1]), 4 * MIB)
        # A credential helper is a process of its own.
        manifest, blob = Registry.image("private/app", b"private" * 100)
        self.assertEqual(get("/v2/private/app/manifests/latest")[:2], (200, manifest), said())
        self.assertTrue((self.cache / "socket").is_socket())
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(60), 0, said())
        self.assertNotIn("Operation not permitted", said())

    def processes(self):
        """Whoever runs this test's binary."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [str(self.binary).encode(), b"serve"]:
                found.append(int(entry.name))
        return found

    def refuses(self, which):
        """The filter is in force, and the file system closed: what the test above relies on."""
        attempts = (
            "import ctypes, errno, mmap, os, socket, sys\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "libc.syscall.restype = ctypes.c_long\n"
            "def failed(call):\n"
            "    try:\n"
            "        call()\n"
            "    except OSError as error:\n"
            "        return error.errno\n"
            "def raw(*words):\n"
            "    if libc.syscall(*words) < 0: raise OSError(ctypes.get_errno(), '')\n"
            "print(failed(lambda: raw(101, 0, 0, 0, 0)), failed(lambda: raw(272, 0x10000000)), failed(lambda: raw(321, 0, 0, 0)),\n"
            "      failed(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)), failed(lambda: open('/etc/passwd', 'a')),\n"
            "      failed(lambda: open('/confined', 'w')),\n"
            "      failed(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)))\n")
        # One that everybody may run: the one that runs this can lie in somebody's home.
        python = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin") or sys.executable
        command = confined(which, self.cache, python, "-c", attempts)
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        *calls, existing, fresh, executable = ran.stdout.split()
        self.assertEqual(calls, [str(EPERM)] * 4, "ptrace, unshare, bpf, AF_PACKET")
        self.assertIn(existing, ("13", "30"))
        self.assertIn(fresh, ("13", "30"))
        self.assertEqual(executable, str(EPERM) if which == "unit" else "None", "memory to write and to execute")

    @unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd-analyze, which knows the groups of system calls")
    def test_as_the_unit_has_it(self):
        self.pulls("unit")

    @unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd-analyze, which knows the groups of system calls")
    def test_the_units_filter_refuses(self):
        if os.uname().machine == "x86_64":
            self.refuses("unit")

    def test_as_the_container_has_it(self):
        self.pulls("profile")

    @unittest.skipUnless(shutil.which("podman"), "no podman")
    def test_in_a_container(self):
        """A real engine reads the profile and sets it all up. The image is this machine's shell and libraries, read-only."""
        root = self.folder / "root"
        for name in ("proc", "sys", "dev", "tmp", "etc", "run", str(self.folder).lstrip("/")):
            (root / name).mkdir(parents=True, exist_ok=True)
        needed = [self.binary, Path("/bin/sh"), Path("/bin/cat")]
        for program in list(needed):
            listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
            needed += [Path(word) for word in re.findall(r"/[^ ]+", listed)]
        for file in needed:
            target = root / str(file).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)

        def podman(*serve):
            return ["podman", "run", "--rm", "--network=host", "--read-only", "--cap-drop=all", "--user", f"{NOBODY}:{NOBODY}",
                    "--security-opt=no-new-privileges", f"--security-opt=seccomp={PROFILE}", "--ulimit=nofile=1024:1024",
                    "--ulimit=nproc=1024:1024", "--log-driver=none", f"--env=PATH={self.folder}:/bin",
                    f"--volume={self.folder}:{self.folder}:ro", f"--volume={self.cache}:{self.cache}:rw", "--rootfs", str(root),
                    *map(str, serve)]
        probe = subprocess.run(podman(self.binary, "--version"), capture_output=True, text=True, timeout=120)
        if probe.returncode and "roadstead" not in probe.stdout:
            self.skipTest(f"podman runs nothing here: {probe.stderr.strip()[-200:]}")
        self.pulls("profile", podman)

    def test_the_profile_refuses(self):
        if os.uname().machine == "x86_64":
            self.refuses("profile")


def main():
    result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"]))
    failed = len(result.failures) + len(result.errors)
    for test, reason in result.skipped:
        print(f"skipped: {test}: {reason}")
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--confine"]:
        confine(sys.argv[2], sys.argv[3:])
    sys.exit(main())
