#!/usr/bin/env python3
"""Has a real Prometheus, configured by deploy/prometheus/, scrape real mirrors that are pulled through, and asks it whatever the
rules and the dashboard ask.

Two mirrors: one whose /metrics is open, and one that wants the token. prometheus, promtool, openssl, PyYAML. Ends with
`N passed, N failed`.
"""

import http.client
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from http.server import ThreadingHTTPServer
from pathlib import Path

import yaml

import confined

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BINARY = Path(os.environ.get("ROADSTEAD", ROOT / "target" / "debug" / "roadstead"))
NEEDED = ("prometheus", "promtool", "openssl")
TOKEN = "0123456789abcdef"
LAYER = 300_000
# As Grafana writes its own variables into an expression.
GRAFANA = {"$__rate_interval": "1m", "$__range": "300s"}


class Upstream(confined.Registry):
    """Tells a quota, fails for one repository, and counts what it sends."""

    sent = 0

    def answer(self, status, body, headers):
        if self.path.startswith("/v2/team/broken/"):
            status, headers = 500, {}
        body = body if status == 200 else b""
        if self.command == "GET":
            Upstream.sent += len(body)
        super().answer(status, body, {**headers, "RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "50;w=21600"})


def wait_until(condition, what, process):
    """The value of `condition` once it is true."""
    for _ in range(1200):
        if value := condition():
            return value
        if process.poll() is not None:
            raise AssertionError(f"it ended before {what}")
        time.sleep(0.05)
    raise AssertionError(f"waited in vain: {what}")


def get(url, headers={}):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        return answer.read()


class Mirror:
    def __init__(self, folder, upstream, admin_keys, tls):
        self.port, self.admin, secure = (confined.free_port() for _ in range(3))
        self.cache = folder / "cache"
        folder.mkdir()
        config = folder / "config.toml"
        config.write_text(
            f'[server]\nlisten = ["plain:127.0.0.1:{self.port}", "127.0.0.1:{secure}"]\n'
            f'tls = {{ cert = "{tls[0]}", key = "{tls[1]}" }}\n'
            f'[admin]\nlisten = "127.0.0.1:{self.admin}"\ntoken = "{TOKEN}"\n{admin_keys}\n'
            f'[cache]\ndir = "{self.cache}"\nmin_free = "1MiB"\n[freshness]\nfresh_for = "1h"\nnegative = "1h"\n'
            f'[[prefetch]]\nimages = ["docker.io/team/none:1"]\n'
            f'[upstream."docker.io"]\nurl = "http://127.0.0.1:{upstream}"\ndeny = ["team/denied"]\n'
            f'[upstream."callers.example"]\nurl = "http://127.0.0.1:{upstream}"\nvisibility = "caller"\n')
        self.log = open(folder / "log", "w+")
        self.process = subprocess.Popen([BINARY, "serve", "--config", config], stdout=self.log, stderr=self.log)
        self.bytes, self.results = 0, Counter()
        self.made = 0
        wait_until(self.ready, "the mirror is ready", self.process)

    def ready(self):
        try:
            return get(f"http://127.0.0.1:{self.admin}/readyz")
        except OSError:
            return None

    def metrics(self):
        return get(f"http://127.0.0.1:{self.admin}/metrics", {"Authorization": f"Bearer {TOKEN}"}).decode()

    def ask(self, path, status, is_hit=None):
        """One request; `is_hit` where it is a pull."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != status:
            raise AssertionError(f"{path}: {answer.status}, {body[:300]}")
        self.bytes += len(body)
        if is_hit is not None:
            self.results["hit" if is_hit else "miss"] += 1
        return body

    def pulls(self):
        """What a client asks for of a new image, again when it is here, and what fails: always the same number of each."""
        self.made += 1
        repository = f"team/app{self.made}"
        manifest, layer = Upstream.image(repository, os.urandom(LAYER))
        for is_hit in (False, True, True):
            self.ask("/v2/", 200)
            self.ask(f"/v2/{repository}/manifests/latest", 200, is_hit)
            self.ask(f"/v2/{repository}/blobs/{layer}", 200, is_hit)
            # Its last reader may be served a moment before it is published.
            wait_until(lambda: "\nroadstead_fills_in_flight 0\n" in self.metrics(), "the download has ended", self.process)
        self.ask("/v2/team/none/manifests/never", 404, True)
        self.ask("/v2/team/denied/manifests/latest", 403, False)
        self.ask("/v2/team/broken/manifests/latest", 503, False)

    def hit_ratio(self, since):
        hits, misses = (self.results[each] - since[each] for each in ("hit", "miss"))
        return hits / (hits + misses)


class Scraped(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="roadstead-scraped-", dir="/tmp"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        cls.addClassCleanup(upstream.server_close)
        cls.addClassCleanup(upstream.shutdown)
        tls = cls.folder / "tls.crt", cls.folder / "tls.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                        "-subj", "/CN=mirror", "-addext", "subjectAltName=IP:127.0.0.1", "-out", tls[0], "-keyout", tls[1]],
                       check=True, capture_output=True)
        cls.mirrors = []
        for name, keys in (("open", "metrics_open = true"), ("closed", "")):
            cls.mirrors.append(Mirror(cls.folder / name, upstream.server_port, keys, tls))
            cls.addClassCleanup(cls.end, cls.mirrors[-1].process)
            cls.addClassCleanup(cls.mirrors[-1].log.close)
        cls.open, cls.closed = cls.mirrors
        # A series begins with its first event, which no rate sees; and rate() takes a counter that is small against its increase
        # for one that has begun a moment ago. So that figures are exact, each has counted more before it is first scraped than
        # it counts afterwards.
        for mirror in cls.mirrors:
            for _ in range(2):
                mirror.pulls()
        cls.start_prometheus()
        cls.wait_for_scrapes()
        before, sent, taken = cls.open.results.copy(), Upstream.sent, cls.open.bytes
        cls.open.pulls()
        cls.ratio = cls.open.hit_ratio(before)
        cls.byte_ratio = 1 - (Upstream.sent - sent) / (cls.open.bytes - taken)
        cls.wait_for_scrapes()

    @classmethod
    def start_prometheus(cls):
        text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
        # As its comment says, for a mirror that wants the token.
        closed = re.sub(r"^( *)# (authorization: )", r"\1\2", text, flags=re.M)
        token = cls.folder / "token"
        token.write_text(TOKEN)
        closed = closed.replace("/etc/prometheus/roadstead-token", str(token))
        config = yaml.safe_load(text.replace("roadstead:5001", f"127.0.0.1:{cls.open.admin}"))
        (with_token,) = yaml.safe_load(closed.replace("roadstead:5001", f"127.0.0.1:{cls.closed.admin}"))["scrape_configs"]
        config["scrape_configs"].append({**with_token, "job_name": "closed-roadstead"})
        config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (cls.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(DEPLOY / "prometheus" / "roadstead.rules.yml", cls.folder)
        cls.port = confined.free_port()
        log = open(cls.folder / "prometheus.log", "w")
        cls.addClassCleanup(log.close)
        cls.prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={cls.folder}/prometheus.yml", f"--storage.tsdb.path={cls.folder}/data",
             f"--web.listen-address=127.0.0.1:{cls.port}"], stdout=log, stderr=log)
        cls.addClassCleanup(cls.end, cls.prometheus)
        wait_until(cls.prometheus_is_ready, "Prometheus is ready", cls.prometheus)

    @classmethod
    def prometheus_is_ready(cls):
        try:
            return get(f"http://127.0.0.1:{cls.port}/-/ready")
        except OSError:
            return None

    @staticmethod
    def end(process):
        process.terminate()
        process.wait(60)

    @classmethod
    def api(cls, path, **words):
        try:
            answer = get(f"http://127.0.0.1:{cls.port}/api/v1/{path}?{urllib.parse.urlencode(words, doseq=True)}")
        except urllib.error.HTTPError as error:
            answer = error.read()
        return json.loads(answer)

    @classmethod
    def query(cls, expression):
        """[(labels, value)]; an error of Prometheus' is one of the test."""
        answer = cls.api("query", query=expression)
        if answer["status"] != "success" or answer.get("warnings"):
            raise AssertionError(f"{expression}: {answer}")
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    @classmethod
    def wait_for_scrapes(cls):
        """Until Prometheus knows all that each mirror has counted."""
        for mirror in cls.mirrors:
            counted = sum(map(int, re.findall(r"^roadstead_requests_total\{.*\} (\d+)$", mirror.metrics(), re.M)))
            expression = f'sum(roadstead_requests_total{{instance="127.0.0.1:{mirror.admin}"}})'
            wait_until(lambda: cls.query(expression) == [({}, counted)], "a scrape", cls.prometheus)

    def expressions(self):
        """(title, what Grafana sends) of every panel."""
        mirrors = "|".join(re.sub(r"([.])", r"\\\\\1", f"127.0.0.1:{mirror.admin}") for mirror in self.mirrors)
        dashboard = json.loads((DEPLOY / "grafana/dashboards/roadstead.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$instance", f"({mirrors})")
                for name, value in GRAFANA.items():
                    expression = expression.replace(name, value)
                self.assertNotIn("$", expression)
                yield panel["title"], expression

    def rules(self):
        return [rule for group in self.api("rules")["data"]["groups"] for rule in group["rules"]]

    def test_both_are_scraped(self):
        targets = self.api("targets")["data"]["activeTargets"]
        self.assertEqual({(each["labels"]["instance"], each["health"], each["lastError"]) for each in targets},
                         {(f"127.0.0.1:{mirror.admin}", "up", "") for mirror in self.mirrors})
        self.assertEqual([value for _, value in self.query("up")], [1, 1])
        with self.assertRaises(urllib.error.HTTPError, msg="without the token"):
            get(f"http://127.0.0.1:{self.closed.admin}/metrics")

    def test_nothing_of_a_scrape_is_left_out(self):
        """No sample twice, out of order or out of bounds: Prometheus counts those that it drops."""
        own = get(f"http://127.0.0.1:{self.port}/metrics").decode()
        dropped = dict(re.findall(r"^(prometheus_target_scrapes?_\w*sample\w*_total) (\S+)$", own, re.M))
        self.assertIn("prometheus_target_scrapes_sample_duplicate_timestamp_total", dropped)
        self.assertEqual(set(dropped.values()), {"0"}, dropped)

    def test_metrics_are_as_prometheus_wants_them(self):
        """Its own lints; and the type, without which a Prometheus 3 takes none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.open.admin}/metrics", timeout=60) as answer:
            self.assertEqual(answer.headers["Content-Type"].partition("; charset")[0], "text/plain; version=0.0.4")
        for mirror in self.mirrors:
            linted = subprocess.run(["promtool", "check", "metrics"], input=mirror.metrics(), capture_output=True, text=True)
            self.assertEqual((linted.returncode, linted.stdout + linted.stderr), (0, ""))

    def test_rules_are_evaluated(self):
        wait_until(lambda: all(rule["health"] != "unknown" for rule in self.rules()), "the rules are evaluated", self.prometheus)
        (written,) = [yaml.safe_load((DEPLOY / "prometheus/roadstead.rules.yml").read_text())]
        self.assertEqual({rule["name"] for rule in self.rules()},
                         {rule.get("alert") or rule["record"] for group in written["groups"] for rule in group["rules"]})
        self.assertEqual({(rule["health"], rule.get("lastError", "")) for rule in self.rules()}, {("ok", "")})

    def test_rules_ask_for_what_there_is(self):
        for rule in self.rules():
            for name in set(re.findall(r"\b(?:roadstead_\w+|up\b)", rule["query"])):
                with self.subTest(rule["name"]):
                    self.assertTrue(self.query(name), name)

    def test_every_panel_has_data(self):
        for title, expression in self.expressions():
            with self.subTest(title, expression=expression):
                found = self.query(expression)
                self.assertTrue(found)
                # A quantile of nothing is none: of a kind that nobody has asked for lately.
                if "histogram_quantile" not in expression:
                    self.assertFalse([value for _, value in found if math.isnan(value)])

    def test_the_dashboard_finds_the_mirrors(self):
        """Its variable `instance`, as Grafana asks for the values of a label."""
        dashboard = json.loads((DEPLOY / "grafana/dashboards/roadstead.json").read_text())
        (variable,) = [each for each in dashboard["templating"]["list"] if each["type"] == "query"]
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
        found = self.api(f"label/{label}/values", **{"match[]": metric})["data"]
        self.assertEqual(set(found), {f"127.0.0.1:{mirror.admin}" for mirror in self.mirrors})

    def test_ratios_are_what_was_asked_for(self):
        """Exactly: the figures of the rules, and the dashboard's."""
        self.assertEqual(self.ratio, 5 / 9)
        self.assertTrue(0.6 < self.byte_ratio < 0.7, self.byte_ratio)
        instance = f'instance="127.0.0.1:{self.open.admin}"'
        panels = dict(self.expressions())
        for rule, panel, wanted in (("roadstead:hit_ratio:5m", "Hit rate", self.ratio),
                                    ("roadstead:byte_hit_ratio:5m", "Byte hit rate", self.byte_ratio)):
            with self.subTest(rule):
                def equals(expression):
                    return any(abs(value - wanted) < 1e-9 for _, value in self.query(expression))

                wait_until(lambda: equals(f"{rule}{{{instance}}}"), f"{rule} is {wanted}", self.prometheus)
                # With both mirrors it is the same: the other one had nothing to do.
                self.assertTrue(equals(panels[panel]), (panel, self.query(panels[panel]), wanted))

    def test_every_request_was_counted(self):
        instance = f'instance="127.0.0.1:{self.open.admin}"'
        ((_, pulls),) = self.query(f'sum(roadstead_requests_total{{{instance}, kind!="other"}})')
        self.assertEqual(pulls, sum(self.open.results.values()))
        ((_, sent),) = self.query(f"sum(roadstead_response_bytes_total{{{instance}}})")
        self.assertEqual(sent, self.open.bytes)


def main():
    if missing := [program for program in NEEDED if not shutil.which(program)]:
        sys.exit(f"Missing: {', '.join(missing)}. tests/run gets them.")
    if not BINARY.is_file():
        sys.exit(f"There is no mirror at {BINARY}. Build it with `cargo build`, or name one with ROADSTEAD=PATH.")
    # SIGTERM ends the run as Ctrl-C does, with everything stopped and removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"]))
    finally:
        # An interrupted run leaves them out.
        Scraped.doClassCleanups()
    failed = len({getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors})
    print(f"{max(result.testsRun - failed, 0)} passed, {failed} failed")
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
