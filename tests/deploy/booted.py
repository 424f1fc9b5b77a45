#!/usr/bin/env python3
"""Boots a systemd, installs the mirror as the units in deploy/systemd say at their heads, and has systemctl do what operators do.

The machine is a set of namespaces (machine.py); the addresses are those of the shipped configuration, in a network of this test's
own. Linux, root, systemd. Ends with `N passed, N failed`.
"""

import http.client
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from http.server import ThreadingHTTPServer
from pathlib import Path

import confined
import machine

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"
BINARY = Path(os.environ.get("ROADSTEAD", ROOT / "target" / "debug" / "roadstead"))
NEEDED = (*machine.NEEDED, "openssl")
CONFIG = "/etc/roadstead/config.toml"


class Upstream(confined.Registry):
    """Sends a layer of `team/slow` to its first half, and the rest when it is let."""

    go_on = threading.Event()
    half_way = threading.Event()

    def answer(self, status, body, headers):
        if self.command == "GET" and self.path.startswith("/v2/team/slow/blobs/") and status == 200 and len(body) > 1000:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body[:len(body) // 2])
                self.half_way.set()
                self.go_on.wait(60)
                self.wfile.write(body[len(body) // 2:])
            except OSError:
                self.close_connection = True
            return
        super().answer(status, body, headers)


def get(path, port=5000, token=None):
    """(status, body, Cache-Status)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer.headers["Cache-Status"]


def said(file):
    """The commands that stand in the comment at a unit's head."""
    return [line[1:].strip() for line in (UNITS / file).read_text().splitlines() if re.match(r"#   (install|systemctl) ", line)]


class Booted(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="roadstead-booted-", dir="/tmp"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        threading.Thread(target=cls.upstream.serve_forever, daemon=True).start()
        cls.addClassCleanup(cls.upstream.server_close)
        cls.addClassCleanup(cls.upstream.shutdown)
        cls.machine = machine.Machine(cls.folder, BINARY, ROOT / "deploy")
        cls.addClassCleanup(cls.machine.end)
        cls.shipped = (UNITS / "config.toml").read_text()

    def setUp(self):
        """Each test begins with a machine on which the mirror was just installed, but for its cache."""
        self.machine.sh(
            "systemctl disable --now roadstead.socket roadstead.service 2> /dev/null || true\n"
            "systemctl reset-failed\n"
            "rm -rf /etc/systemd/system/roadstead.service.d /etc/systemd/system/roadstead.s* /etc/roadstead /usr/local/bin/roadstead")
        *install, start = said("roadstead.service")
        self.start = start
        self.machine.sh("\n".join(install))
        self.assertEqual(self.machine.path(CONFIG).read_text(), self.shipped)
        self.configure()

    def configure(self, more="", shipped=None):
        """The shipped configuration, with this test's registry for Docker Hub."""
        self.machine.path(CONFIG).write_text(
            f'{shipped or self.shipped}\n[upstream."docker.io"]\nurl = "http://127.0.0.1:{self.upstream.server_port}"\n{more}\n')

    def drop_in(self, text):
        folder = self.machine.path("/etc/systemd/system/roadstead.service.d")
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(text)
        self.machine.sh("systemctl daemon-reload")

    def pull(self, name, size=3 << 20):
        """A new image, cold and warm."""
        layer = os.urandom(size)
        manifest, blob = Upstream.image(name, layer)
        self.assertEqual(get(f"/v2/{name}/manifests/latest")[:2], (200, manifest), self.machine.log())
        how = ""
        for _ in range(100):
            status, body, how = get(f"/v2/{name}/blobs/{blob}")
            self.assertEqual((status, body == layer), (200, True), self.machine.log())
            if "detail=disk" in how:
                break
            time.sleep(0.05)
        self.assertIn("hit; detail=disk", how)
        return blob

    def roadstead(self, *words):
        return self.machine.run("roadstead", *words, "--config", CONFIG, check=True).stdout

    def test_installed_as_it_says(self):
        self.machine.sh(self.start)
        # `systemctl start` has ended: it serves. Nothing is waited for.
        self.assertEqual(get("/readyz", 5001)[0], 200)
        self.assertEqual(self.machine.show("roadstead", "ActiveState", "SubState", "UnitFileState"), ("active", "running", "enabled"))
        blob = self.pull("team/installed")
        self.assertIn("team/installed", self.roadstead("ls"))
        self.roadstead("pin", "team/installed:latest")
        self.assertIn("pinned", self.roadstead("explain", "team/installed:latest"))
        file = self.machine.path("/var/lib/private/roadstead/blobs/sha256") / blob.partition(":")[2]
        (pid,) = self.machine.show("roadstead", "MainPID")
        status = self.machine.path(f"/proc/{pid}/status").read_text()
        facts = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.M))
        self.assertEqual({int(facts[each], 16) for each in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}, {0})
        self.assertEqual((facts["NoNewPrivs"], facts["Seccomp"]), ("1", "2"))
        # The cache is that user's, and nobody else's.
        self.assertEqual(str(file.stat().st_uid), facts["Uid"].split()[0])
        self.assertNotEqual(file.stat().st_uid, 0)
        self.assertEqual(file.stat().st_mode & 0o077, 0)
        limits = self.machine.path(f"/proc/{pid}/limits").read_text()
        self.assertRegex(limits, r"Max core file size +0 +0 ")
        log = self.machine.log()
        self.assertNotRegex(log, r"ERROR|[Pp]ermission|not permitted|Read-only", log)

    def test_a_reload_takes_the_new_configuration(self):
        self.machine.sh(self.start)
        Upstream.image("team/reloaded", b"reloaded" * 100)
        (pid,) = self.machine.show("roadstead", "MainPID")
        self.assertEqual(get("/v2/team/reloaded/manifests/latest")[0], 200)
        self.configure('deny = ["team/reloaded"]')
        self.machine.sh("systemctl reload roadstead")
        self.machine.wait(lambda: get("/v2/team/reloaded/manifests/latest")[0] == 403, "it is denied")
        # A wrong one changes nothing, and ends nothing.
        self.machine.path(CONFIG).write_text("wrong")
        self.machine.sh("systemctl reload roadstead")
        self.machine.wait(lambda: "the new configuration is wrong" in self.machine.log(), "it is told")
        self.assertEqual(get("/v2/team/reloaded/manifests/latest")[0], 403)
        self.assertEqual(self.machine.show("roadstead", "ActiveState", "MainPID"), ("active", pid))

    def test_a_stop_amid_a_pull_and_the_rest_after_it(self):
        # The shipped unit gives it longer than the mirror takes by default; here both are shorter.
        self.configure(shipped=self.shipped.replace("[server]\n", '[server]\nshutdown_timeout = "1s"\n'))
        self.machine.sh(self.start)
        layer = os.urandom(8 << 20)
        _, blob = Upstream.image("team/slow", layer)
        self.assertEqual(get("/v2/team/slow/manifests/latest")[0], 200)
        Upstream.half_way.clear()
        Upstream.go_on.clear()
        ended = []

        def reads():
            try:
                ended.append(get(f"/v2/team/slow/blobs/{blob}")[1])
            except (http.client.HTTPException, OSError) as error:
                ended.append(error)

        reader = threading.Thread(target=reads)
        reader.start()
        self.assertTrue(Upstream.half_way.wait(60))
        self.machine.sh("systemctl stop roadstead")
        Upstream.go_on.set()
        reader.join(60)
        self.assertIsInstance(ended[0], Exception, "a body that was cut off must not look whole")
        # Not killed: "timeout" or "signal" would stand here.
        self.assertEqual(self.machine.show("roadstead", "ActiveState", "Result", "ExecMainStatus"), ("inactive", "success", "0"))
        self.machine.sh("systemctl start roadstead")
        self.assertEqual(get(f"/v2/team/slow/blobs/{blob}")[:2], (200, layer))

    def test_a_crash_is_followed_by_a_start(self):
        self.machine.sh(self.start)
        self.pull("team/crashed")
        (pid,) = self.machine.show("roadstead", "MainPID")
        self.machine.sh("systemctl kill --signal=KILL --kill-whom=main roadstead")

        def runs_again():
            state, now, restarts = self.machine.show("roadstead", "ActiveState", "MainPID", "NRestarts")
            return state == "active" and now not in ("0", pid) and restarts == "1"

        self.machine.wait(runs_again, "it runs again")
        Upstream.tags.pop(("team/crashed", "latest"))
        self.assertIn("hit", get("/v2/team/crashed/manifests/latest")[2], self.machine.log())

    def test_a_wrong_configuration_is_told_by_the_start(self):
        self.configure("no_such_key = 1")
        started = self.machine.run("sh", "-c", self.start)
        self.assertNotEqual(started.returncode, 0)
        self.assertEqual(self.machine.show("roadstead", "ActiveState", "ExecMainStatus", "NRestarts"), ("failed", "78", "0"))
        self.assertIn("no_such_key", self.machine.log())

    def test_who_comes_after_it_finds_it_running(self):
        """`Before=` holds for what starts when the mirror serves, not when there is a process."""
        unit = self.machine.path("/etc/systemd/system/docker.service")
        unit.write_text("[Unit]\nWants=roadstead.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
                        "ExecStart=bash -c 'exec 3<>/dev/tcp/127.0.0.1/5000'\n")
        self.addCleanup(self.machine.sh, "systemctl stop docker; rm /etc/systemd/system/docker.service; systemctl daemon-reload")
        self.machine.sh("systemctl daemon-reload; systemctl start docker")
        self.assertEqual(self.machine.show("docker", "ActiveState"), ("active",))

    def test_a_socket_starts_it(self):
        self.machine.sh(self.start)
        self.assertEqual(get("/readyz", 5001)[0], 200)
        shipped = self.shipped.replace('listen = "127.0.0.1:5000"', re.search(r'listen = "systemd:.*"', (UNITS / "roadstead.socket").read_text())[0])
        self.assertNotEqual(shipped, self.shipped)
        self.configure(shipped=shipped)
        # From one that runs by itself, as the unit's head says.
        self.machine.sh("\n".join(said("roadstead.socket")))
        self.assertEqual(self.machine.show("roadstead.socket", "ActiveState"), ("active",))
        self.assertEqual(self.machine.show("roadstead.service", "ActiveState"), ("inactive",))
        self.pull("team/socket")
        self.assertEqual(self.machine.show("roadstead.service", "ActiveState"), ("active",))
        # It stops, and the next pull starts it again.
        self.machine.sh("systemctl stop roadstead.service 2> /dev/null")
        self.pull("team/socket-again")

    def test_a_password_is_handed_over(self):
        """As the comment in config.toml says, lines taken as they are."""
        commented = self.shipped.rpartition("# A password lives")[2]
        drop_in = "\n".join(re.findall(r"^#   (\[Service\]|LoadCredential=.*)$", commented, re.M))
        table = "\n".join(line[1:] for line in commented.splitlines() if re.match(r"#[\[a-z]", line)).replace("someone", "ann")
        self.assertIn("LoadCredential=hub:/etc/roadstead/hub-token", drop_in)
        self.machine.path(CONFIG).write_text(f'{self.shipped}\n{table}\nurl = "http://127.0.0.1:{self.upstream.server_port}"\n')
        secret = self.machine.path("/etc/roadstead/hub-token")
        secret.write_text("word\n")
        secret.chmod(0o600)
        self.drop_in(drop_in)
        self.machine.sh(self.start)
        self.pull("private/app")

    def test_a_key_that_only_root_can_read(self):
        """TLS, as the comment in config.toml says."""
        tls = re.search(r'^#   (tls = .*)$', self.shipped, re.M)[1]
        self.configure(shipped=self.shipped.replace("[server]\n", f"[server]\n{tls}\n"))
        etc = self.machine.path("/etc/roadstead")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=mirror", "-addext", "subjectAltName=IP:127.0.0.1", "-out", etc / "tls.crt",
                        "-keyout", etc / "tls.key"], check=True, capture_output=True)
        (etc / "tls.key").chmod(0o600)
        self.drop_in("[Service]\n" + re.search(r"LoadCredential=tls.key:\S+", self.shipped)[0] + "\n")
        self.machine.sh(self.start)
        trust = ssl.create_default_context(cafile=etc / "tls.crt")
        connection = http.client.HTTPSConnection("127.0.0.1", 5000, timeout=60, context=trust)
        connection.request("GET", "/v2/")
        self.assertEqual(connection.getresponse().status, 200)
        connection.close()

    def test_commands_leave_no_file_of_roots_in_the_cache(self):
        """`prefetch` opens the folder of a mirror that is stopped; this one is another user's, who could not change such files."""
        self.machine.sh(self.start)
        self.pull("team/before")
        manifest, blob = Upstream.image("team/prefetched", os.urandom(1 << 20))
        self.machine.sh("systemctl stop roadstead")
        refused = self.machine.run("roadstead", "prefetch", "team/prefetched:latest", "--config", CONFIG)
        self.assertEqual(refused.returncode, 1, refused)
        self.assertIn("start it", refused.stderr)
        self.machine.sh("systemctl start roadstead")
        # It goes through the mirror, also for a user who cannot look into the folder.
        for user in ((), ("setpriv", "--reuid=65534", "--clear-groups")):
            self.machine.run(*user, "roadstead", "prefetch", "team/prefetched:latest", "--config", CONFIG, check=True)
        Upstream.tags.pop(("team/prefetched", "latest"))
        self.assertEqual(get("/v2/team/prefetched/manifests/latest")[:2], (200, manifest), self.machine.log())
        self.assertIn("hit; detail=disk", get(f"/v2/team/prefetched/blobs/{blob}")[2])
        self.assertEqual(self.machine.sh("find /var/lib/private/roadstead -uid 0"), "")

    def test_the_admin_interface_behind_a_socket_or_a_token(self):
        """The two ways that config.toml names."""
        named = re.search(r'listen = "unix:.*?"', self.shipped)[0]
        self.configure(shipped=self.shipped.replace('listen = "127.0.0.1:5001"', named))
        self.drop_in("[Service]\nRuntimeDirectory=roadstead\n")
        self.machine.sh(self.start)
        self.pull("team/by-socket")
        self.assertIn("team/by-socket", self.roadstead("ls"))
        self.machine.sh("systemctl stop roadstead")

        named = re.search(r'token_file = ".*?"', self.shipped)[0]
        self.configure(shipped=self.shipped.replace('listen = "127.0.0.1:5001"', f'listen = "127.0.0.1:5001"\n{named}'))
        self.machine.path("/etc/roadstead/admin").write_text("0123456789abcdef\n")
        self.drop_in("[Service]\nLoadCredential=admin:/etc/roadstead/admin\n")
        self.machine.sh("systemctl start roadstead")
        self.assertEqual(get("/api/v1/stats", 5001)[0], 401)
        self.assertIn("team/by-socket", self.roadstead("ls"))


def main():
    if missing := [program for program in NEEDED if not shutil.which(program)]:
        sys.exit(f"Missing: {', '.join(missing)}. tests/run installs them.")
    if not BINARY.is_file():
        sys.exit(f"There is no mirror at {BINARY}. Build it with `cargo build`, or name one with ROADSTEAD=PATH.")
    if os.geteuid() != 0:
        sys.exit("A machine is made by root.")
    # SIGTERM ends the run as Ctrl-C does, with everything stopped and removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine.own_network()
    names = sys.argv[1:]
    suite = unittest.TestSuite(test for case in unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"]) for test in case
                               if not names or any(name in test.id() for name in names))
    try:
        result = unittest.TextTestRunner(verbosity=2).run(suite)
    finally:
        # An interrupted run leaves them out.
        Booted.doClassCleanups()
    failed = len(result.failures) + len(result.errors)
    print(f"{max(result.testsRun - failed, 0)} passed, {failed} failed")
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
