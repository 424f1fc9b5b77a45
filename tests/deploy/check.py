#!/usr/bin/env python3
"""Checks deploy/ and the documents as far as that goes without a cluster and a network.

Needs PyYAML and a built mirror (`target/debug/roadstead`, or the environment's ROADSTEAD). Ends with `N passed, N failed`.
"""

import fnmatch
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BINARY = Path(os.environ.get("ROADSTEAD", ROOT / "target" / "debug" / "roadstead"))
PROMETHEUS_OWN = {"up"}


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def kubernetes():
    """(file name, object) of every manifest."""
    return [(path.name, each) for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for each in documents(path)]


def pods():
    """(file name, name, pod specification) of everything that runs pods."""
    return [(name, each["metadata"]["name"], each["spec"]["template"]["spec"])
            for name, each in kubernetes() if each["kind"] in ("Deployment", "DaemonSet")]


def roadstead(*words):
    # What whoever deploys it sets.
    environment = {**os.environ, "ROADSTEAD_ADMIN_TOKEN": "0123456789abcdef"}
    return subprocess.run([BINARY, *words], capture_output=True, text=True, timeout=30, cwd=tempfile.gettempdir(), env=environment)


class Configurations(unittest.TestCase):
    """Every configuration in deploy/ is one that the mirror accepts, and puts the cache where it may write."""

    def configurations(self):
        found = {str(path.relative_to(ROOT)): path.read_text() for path in DEPLOY.glob("**/config.toml")}
        for name, each in kubernetes():
            if each["kind"] == "ConfigMap" and "config.toml" in each["data"]:
                found[f"{name}: {each['metadata']['name']}"] = each["data"]["config.toml"]
        return found

    def test_the_mirror_accepts_them(self):
        found = self.configurations()
        self.assertEqual(len(found), 5, found.keys())
        for name, text in found.items():
            with self.subTest(name), tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(text)
                file.flush()
                checked = roadstead("check", "--config", file.name)
                self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_a_wrong_key_would_be_found(self):
        """What the test above relies on."""
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write("[cache]\nmaximum = 1\n")
            file.flush()
            self.assertNotEqual(roadstead("check", "--config", file.name).returncode, 0)

    def test_the_cache_is_where_the_volume_is(self):
        for name, text in self.configurations().items():
            with self.subTest(name):
                self.assertEqual(tomllib.loads(text)["cache"]["dir"], "/var/lib/roadstead")


    def test_the_admin_interface_is_closed(self):
        """On loopback, or with a token that a secret or the environment holds; never a token that stands in a file here."""
        for name, text in self.configurations().items():
            with self.subTest(name):
                admin = tomllib.loads(text)["admin"]
                if not admin["listen"].startswith("127.0.0.1:"):
                    self.assertEqual(admin["token"], "env:ROADSTEAD_ADMIN_TOKEN")
        for name, pod_name, pod in pods():
            with self.subTest(f"{name}: {pod_name}"):
                (token,) = [each for each in pod["containers"][0]["env"] if each["name"] == "ROADSTEAD_ADMIN_TOKEN"]
                self.assertEqual(token["valueFrom"], {"secretKeyRef": {"name": "roadstead-admin", "key": "token"}})


class Kubernetes(unittest.TestCase):
    def test_objects_are_whole(self):
        versions = {"Deployment": "apps/v1", "DaemonSet": "apps/v1"}
        for name, each in kubernetes():
            with self.subTest(f"{name}: {each['kind']}"):
                self.assertEqual(each["apiVersion"], versions.get(each["kind"], "v1"))
                self.assertRegex(each["metadata"]["name"], r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
                if each["kind"] != "Namespace":
                    namespaces = {other["metadata"]["name"] for file, other in kubernetes()
                                  if file == name and other["kind"] == "Namespace"}
                    self.assertIn(each["metadata"]["namespace"], namespaces)

    def test_selectors_find_their_pods(self):
        for name, each in kubernetes():
            with self.subTest(f"{name}: {each['kind']}"):
                if each["kind"] in ("Deployment", "DaemonSet"):
                    labels = each["spec"]["template"]["metadata"]["labels"]
                    self.assertLessEqual(each["spec"]["selector"]["matchLabels"].items(), labels.items())
                if each["kind"] == "Service":
                    found = [other["spec"]["template"] for file, other in kubernetes() if file == name
                             and other["kind"] in ("Deployment", "DaemonSet")
                             and each["spec"]["selector"].items() <= other["spec"]["template"]["metadata"]["labels"].items()]
                    self.assertEqual(len(found), 1)
                    ports = {port["name"] for port in found[0]["spec"]["containers"][0]["ports"]}
                    self.assertLessEqual({port["targetPort"] for port in each["spec"]["ports"]}, ports)

    def test_what_a_pod_names_exists(self):
        for name, pod_name, pod in pods():
            objects = {(each["kind"], each["metadata"]["name"]) for file, each in kubernetes() if file == name}
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            used = set()
            for container in pod["containers"] + pod.get("initContainers", []):
                with self.subTest(f"{name}: {pod_name}/{container['name']}"):
                    ports = {port["name"] for port in container.get("ports", [])}
                    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                        if probe in container:
                            self.assertIn(container[probe]["httpGet"]["port"], ports)
                            self.assertIn(container[probe]["httpGet"]["path"], ("/readyz", "/healthz"))
                    used |= {mount["name"] for mount in container["volumeMounts"]}
            self.assertEqual(used, volumes.keys())
            for volume in volumes.values():
                if "configMap" in volume:
                    self.assertIn(("ConfigMap", volume["configMap"]["name"]), objects)
                if "persistentVolumeClaim" in volume:
                    self.assertIn(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]), objects)

    def test_pods_are_confined(self):
        for name, pod_name, pod in pods():
            self.assertFalse(pod["automountServiceAccountToken"])
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            for key in ("hostNetwork", "hostPID", "hostIPC"):
                self.assertNotIn(key, pod)
            for container in pod["containers"] + pod.get("initContainers", []):
                with self.subTest(f"{name}: {pod_name}/{container['name']}"):
                    context = container["securityContext"]
                    self.assertFalse(context["allowPrivilegeEscalation"])
                    self.assertTrue(context["readOnlyRootFilesystem"])
                    self.assertEqual(context["capabilities"]["drop"], ["ALL"])
                    self.assertIn("memory", container["resources"]["limits"])
            for container in pod["containers"]:
                context = pod["securityContext"] | container["securityContext"]
                self.assertTrue(context["runAsNonRoot"])
                self.assertGreater(context["runAsUser"], 0)
                self.assertNotIn("add", context["capabilities"])

    def test_a_nodes_mirror_is_for_that_node(self):
        (pod,) = [pod for _, _, pod in pods() if "initContainers" in pod]
        for port in pod["containers"][0]["ports"]:
            if "hostPort" in port:
                self.assertEqual(port["hostIP"], "127.0.0.1")

    def test_hosts_are_the_mirrors_upstreams(self):
        """The hosts.toml that nodes get are those that `roadstead clients` would print."""
        printed = re.split(r"^# /etc/containerd/certs\.d/(.+)/hosts\.toml$", roadstead("clients", "containerd").stdout, flags=re.M)
        wanted = {name: tomllib.loads(text) for name, text in zip(printed[1::2], printed[2::2])}
        self.assertIn("docker.io", wanted)
        (written,) = [each["data"] for _, each in kubernetes()
                      if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "roadstead-hosts"]
        self.assertEqual({name: tomllib.loads(text) for name, text in written.items()}, wanted)
        for name, text in written.items():
            self.assertTrue(text.startswith("# written by roadstead\n"), name)
        for path in (DEPLOY / "containerd").glob("*/hosts.toml"):
            if path.parent.name != "_default":
                self.assertEqual(tomllib.loads(path.read_text()), wanted[path.parent.name], path)

    @unittest.skipUnless(os.geteuid() == 0, "the init container's chown needs root")
    def test_the_init_container_writes_hosts(self):
        """The script itself: it writes, writes again over its own, and leaves a stranger's file alone."""
        (init,) = [pod["initContainers"][0] for _, _, pod in pods() if "initContainers" in pod]
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            for name in ("hosts", "node/certs.d/quay.io", "node/cache"):
                (folder / name).mkdir(parents=True)
            (folder / "hosts" / "docker.io").write_text("# written by roadstead\nfirst\n")
            (folder / "hosts" / "quay.io").write_text("# written by roadstead\n")
            stranger = folder / "node/certs.d/quay.io/hosts.toml"
            stranger.write_text("somebody's\n")
            script = re.sub(r"(?<![\w.}])/(node|hosts)\b", rf"{folder}/\1", init["args"][0])
            ours = folder / "node/certs.d/docker.io/hosts.toml"
            for text in ("first\n", "second\n"):
                (folder / "hosts" / "docker.io").write_text(f"# written by roadstead\n{text}")
                subprocess.run([*init["command"], script], check=True, capture_output=True)
                self.assertEqual(ours.read_text(), f"# written by roadstead\n{text}")
            self.assertEqual(stranger.read_text(), "somebody's\n")
            self.assertEqual((folder / "node/cache").stat().st_uid, 65532)


class Image(unittest.TestCase):
    """The Containerfile, read as a builder reads it."""

    @classmethod
    def setUpClass(cls):
        text = (DEPLOY / "container" / "Containerfile").read_text()
        text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        cls.instructions = [tuple(line.split(maxsplit=1)) for line in text.replace("\\\n", " ").splitlines() if line.strip()]
        last = max(index for index, (word, _) in enumerate(cls.instructions) if word == "FROM")
        cls.final = cls.instructions[last:]

    def only(self, word):
        (value,) = [value for each, value in self.final if each == word]
        return value

    def test_instructions_are_known(self):
        known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
        self.assertLessEqual({word for word, _ in self.instructions}, known)

    def test_images_have_a_version(self):
        images = [value.split()[0] for word, value in self.instructions if word == "FROM"]
        self.assertEqual(len(images), 2)
        for image in images:
            self.assertRegex(image, r"^[a-z0-9.]+/[a-z0-9/]+:(?!latest)[\w.-]+$")
        toolchain = re.search(r"rust:(\d+\.\d+)", images[0])[1]
        wanted = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["rust-version"]
        self.assertEqual(toolchain, ".".join(wanted.split(".")[:2]))
        self.assertEqual(re.search(r"bookworm", images[0])[0], re.search(r"bookworm", images[1])[0], "one libc")

    def test_what_is_copied_is_in_the_context(self):
        ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
        for word, value in self.instructions:
            words = [each for each in value.split() if not each.startswith("--")]
            if word != "COPY" or "--from=" in value:
                continue
            for source in words[:-1]:
                self.assertTrue((ROOT / source).exists(), source)
                kept = True
                for pattern in ignored:
                    if fnmatch.fnmatch(source, pattern.lstrip("!")) or source.startswith(f"{pattern.lstrip('!')}/"):
                        kept = pattern.startswith("!")
                self.assertTrue(kept, f"{source} is ignored")
        for needed in ("src/main.rs", "Cargo.toml", "Cargo.lock"):
            self.assertFalse(any(fnmatch.fnmatch(needed, pattern) for pattern in ignored), needed)

    def test_it_is_not_root(self):
        self.assertRegex(self.only("USER"), r"^[1-9]\d*:[1-9]\d*$")

    def test_it_fits_its_configuration(self):
        config = tomllib.loads((DEPLOY / "container" / "config.toml").read_text())
        self.assertEqual(json.loads(self.only("VOLUME")), [config["cache"]["dir"]])
        ports = {config[table]["listen"].rpartition(":")[2] for table in ("server", "admin")}
        self.assertEqual(set(self.only("EXPOSE").split()), ports)
        command = json.loads(self.only("ENTRYPOINT")) + json.loads(self.only("CMD"))
        self.assertEqual(command, ["/usr/local/bin/roadstead", "serve", "--config", "/etc/roadstead/config.toml"])

    def test_the_health_check_tells_ready_from_not(self):
        """The command itself, against an admin interface that is ready, one that is not, and none."""
        command = json.loads(self.only("HEALTHCHECK").partition("CMD ")[2])
        answers = {"status": 200}

        class Ready(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(answers["status"] if self.path == "/readyz" else 404)
                self.end_headers()

            def log_message(self, format, *args):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Ready)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command[-1] = command[-1].replace("5001", str(server.server_port))

        def status():
            return subprocess.run(command, capture_output=True, timeout=10).returncode

        self.assertEqual(status(), 0)
        answers["status"] = 503
        self.assertNotEqual(status(), 0)
        server.shutdown()
        server.server_close()
        self.assertNotEqual(status(), 0)


class Compose(unittest.TestCase):
    def test_services(self):
        (compose,) = documents(DEPLOY / "compose.yaml")
        mirror = compose["services"]["roadstead"]
        self.assertTrue((DEPLOY / mirror["build"]["context"] / mirror["build"]["dockerfile"]).resolve().is_file())
        self.assertTrue(mirror["read_only"])
        self.assertEqual(mirror["cap_drop"], ["ALL"])
        options = dict(re.split("[:=]", option, maxsplit=1) for option in mirror["security_opt"])
        self.assertEqual(options["no-new-privileges"], "true")
        self.assertEqual(json.loads((DEPLOY / options["seccomp"]).read_text())["defaultAction"], "SCMP_ACT_ERRNO")
        self.assertIn(":?", mirror["environment"]["ROADSTEAD_ADMIN_TOKEN"], "it does not start without one")
        for service in compose["services"].values():
            for port in service["ports"]:
                self.assertTrue(port.startswith("127.0.0.1:"), port)
            for volume in service["volumes"]:
                source = volume.split(":")[0]
                known = (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"]
                self.assertTrue(known, volume)


@unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd-analyze")
class Systemd(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.unit = Path(folder.name) / "roadstead.service"
        # The binary is not installed here; verify wants it to be.
        text = (DEPLOY / "systemd" / "roadstead.service").read_text()
        self.unit.write_text(text.replace("/usr/local/bin/roadstead", str(BINARY.resolve())))

    def analyze(self, *words):
        return subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, timeout=60)

    def test_verify(self):
        verified = self.analyze("verify", "--man=no", "--recursive-errors=no", self.unit)
        self.assertEqual((verified.returncode, verified.stdout + verified.stderr), (0, ""))

    def test_exposure(self):
        """systemd's own mark, from 0 (none) to 10: below 2."""
        marked = self.analyze("security", "--offline=yes", "--threshold=20", "--no-pager", self.unit)
        self.assertEqual(marked.returncode, 0, marked.stdout + marked.stderr)

    def test_system_calls(self):
        """What the mirror calls on its hot path and at its start passes the filter; what it never may does not."""
        listing, group = {}, None
        for line in self.analyze("syscall-filter").stdout.splitlines():
            if line.startswith("@"):
                group = line.strip()
            elif line.startswith("    ") and not line.strip().startswith("#"):
                listing.setdefault(group, set()).add(line.strip())

        def calls(name):
            return set().union(*(calls(each) if each.startswith("@") else {each} for each in listing[name]))

        allowed = calls("@default")
        for line in self.unit.read_text().splitlines():
            if line.startswith("SystemCallFilter="):
                names = line.partition("=")[2]
                found = set().union(*(calls(name) for name in names.lstrip("~").split()))
                allowed = allowed - (found - calls("@default")) if names.startswith("~") else allowed | found
        needed = {"sendfile", "sendmsg", "pread64", "preadv2", "fallocate", "fdatasync", "fsync", "flock", "renameat2", "rename",
                  "unlinkat", "statx", "getdents64", "statfs", "fstatfs", "epoll_pwait", "accept4", "clone3", "futex", "prlimit64",
                  "sched_getaffinity", "getrandom", "madvise", "mmap", "mprotect", "sigaltstack", "utimensat"}
        self.assertEqual(needed - allowed, set())
        self.assertEqual({"mount", "ptrace", "bpf", "init_module", "reboot", "setuid"} & allowed, set())

    def test_exit_codes(self):
        """RestartPreventExitStatus are the codes that the mirror has for what another try cannot cure."""
        codes = re.search(r"RestartPreventExitStatus=(.*)", self.unit.read_text())[1].split()
        self.assertEqual(str(roadstead("serve", "--no-such-option").returncode), codes[0])
        self.assertEqual(str(roadstead("serve", "--config", "/nonexistent/roadstead.toml").returncode), codes[1])


class Metrics(unittest.TestCase):
    """Every metric, label and result that a dashboard, a rule or a document names is one that the mirror exports."""

    @classmethod
    def setUpClass(cls):
        source = (ROOT / "src" / "metrics.rs").read_text()
        table = source.partition("\nmetrics! {")[2].partition("\n}\n")[0]
        declared = re.findall(r"^    (\w+): ((?:Int|Histogram)\w*)(?: \[(.*?)\])?,$", table, flags=re.M)
        cls.metrics = {}
        for name, kind, labels in declared:
            labels = set(re.findall(r'"(\w+)"', labels))
            names = [f"roadstead_{name}"]
            if kind == "HistogramVec":
                labels |= {"le"}
                names = [f"roadstead_{name}{suffix}" for suffix in ("_bucket", "_sum", "_count")]
            cls.metrics |= {each: labels for each in names}
        labels = {name: set(re.findall(r'Self::\w+ => "(\w+)"', source.partition(f"\nimpl {name} {{")[2].partition("\n}\n")[0]))
                  for name in ("Kind", "Outcome", "Removal")}
        cls.values = {"kind": labels["Kind"], "result": labels["Outcome"]}
        lists = (ROOT / "src" / "metrics" / "begin.rs").read_text().partition("\nimpl Metrics")[0]
        cls.reasons = {name: set(re.findall(r'"(\w+)"', values))
                       for name, values in re.findall(r"^const (\w+): .*? = \[(.*?)\];", lists, flags=re.M | re.S)}
        cls.values["reason"] = labels["Removal"].union(*cls.reasons.values())

    def expressions(self):
        dashboard = json.loads((DEPLOY / "grafana/dashboards/roadstead.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield panel["title"], target["expr"]
        (rules,) = documents(DEPLOY / "prometheus/roadstead.rules.yml")
        for group in rules["groups"]:
            for rule in group["rules"]:
                yield rule.get("alert") or rule["record"], rule["expr"]

    def test_the_source_was_read(self):
        self.assertGreater(len(self.metrics), 20)
        self.assertIn("roadstead_requests_total", self.metrics)
        self.assertIn("joined", self.values["result"])
        self.assertIn("blob", self.values["kind"])
        self.assertIn("revalidating", self.reasons["UNCONFIRMED"])
        self.assertIn("space", self.values["reason"])

    def test_expressions(self):
        for title, expression in self.expressions():
            with self.subTest(title):
                self.assertEqual(expression.count("("), expression.count(")"))
                self.assertEqual(expression.count("{"), expression.count("}"))
                found = re.findall(r"\b(roadstead_\w+)(?:\{(.*?)\})?", expression)
                self.assertTrue(found or "up{" in expression or "process_" in expression, expression)
                for name, selector in found:
                    self.assertIn(name, self.metrics)
                    for label, values in re.findall(r'(\w+)(?:=~|!=|!~|=)"([^"]*)"', selector):
                        self.assertIn(label, self.metrics[name] | {"instance", "job"})
                        if label in self.values:
                            self.assertLessEqual(set(values.split("|")), self.values[label])
                for names in re.findall(r"\bby \(([^)]*)\)", expression):
                    labels = set().union(*(self.metrics[name] for name, _ in found)) | {"instance"}
                    self.assertLessEqual(set(names.replace(" ", "").split(",")), labels)

    def test_every_metric_is_on_the_dashboard(self):
        text = (DEPLOY / "grafana/dashboards/roadstead.json").read_text()
        unseen = {name for name in self.metrics if not name.endswith(("_sum", "_count")) and name not in text}
        self.assertEqual(unseen, set())

    def test_dashboard_is_laid_out(self):
        panels = json.loads((DEPLOY / "grafana/dashboards/roadstead.json").read_text())["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        taken = set()
        for panel in panels:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
            self.assertFalse(cells & taken, panel["title"])
            taken |= cells

    def test_documents_name_no_other(self):
        for path in (ROOT / "README.md", ROOT / "docs/OPERATIONS.md"):
            known = self.metrics.keys() | {re.sub(r"_(bucket|sum|count)$", "", name) for name in self.metrics}
            self.assertLessEqual(set(re.findall(r"\broadstead_[a-z_]+\b", path.read_text())), known, path.name)

    def test_operations_explain_every_metric(self):
        text = (ROOT / "docs/OPERATIONS.md").read_text()
        names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in self.metrics}
        self.assertEqual({name for name in names if name not in text}, set())

    def test_operations_explain_every_reason_and_alert(self):
        text = (ROOT / "docs/OPERATIONS.md").read_text()
        self.assertEqual({reason for reason in self.values["reason"] if f"`{reason}`" not in text}, set())
        (rules,) = documents(DEPLOY / "prometheus/roadstead.rules.yml")
        alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
        explained = set(re.findall(r"`(Roadstead\w+)`", text.partition("\n### Alerts\n")[2].partition("\n## ")[0]))
        self.assertEqual(explained, alerts)

    def test_alerts_leave_alone_what_is_wanted(self):
        """What an operator has asked for, and what is nobody's fault, wakes nobody."""
        (rules,) = documents(DEPLOY / "prometheus/roadstead.rules.yml")
        alerts = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
        for alert, metric, wanted in (
                ("RoadsteadServesStale", "roadstead_stale_total", {"revalidating", "offline"}),
                ("RoadsteadFillsFail", "roadstead_fill_failures_total", {"abandoned", "not_found", "offline", "stopping"})):
            excluded = re.search(metric + r'\{reason!~"([^"]*)"\}', alerts[alert])
            self.assertEqual(set(excluded[1].split("|")), wanted, alert)


class Documents(unittest.TestCase):
    """What a reader copies from README.md and docs/ is at least of its grammar, and what is linked exists."""

    PATHS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/API.md", "docs/OPERATIONS.md",
                                      "deploy/containerd/README.md", "deploy/kubernetes/README.md")]

    def test_blocks_parse(self):
        parsers = {"toml": tomllib.loads, "json": json.loads, "yaml": yaml.safe_load}
        parsed = 0
        for path in self.PATHS:
            for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", path.read_text(), flags=re.M | re.S):
                with self.subTest(f"{path.name}: {block.splitlines()[0]}"):
                    if language in parsers:
                        parsers[language](block)
                        parsed += 1
                    elif language in ("sh", "bash"):
                        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        self.assertGreater(parsed, 4)

    def test_links_lead_somewhere(self):
        for path in self.PATHS:
            for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
                with self.subTest(f"{path.name}: {target}"):
                    self.assertTrue((path.parent / target).exists())


def main():
    if not BINARY.is_file():
        sys.exit(f"There is no mirror at {BINARY}. Build it with `cargo build`, or name one with ROADSTEAD=PATH.")
    result = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__]))
    sys.stderr.flush()
    # A test with several failed subtests is one failed test.
    failed = len({getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors})
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed, {len(result.skipped)} skipped")
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
