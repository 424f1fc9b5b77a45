"""The mirror under test: its configuration, its life, and what it says of itself."""

import hashlib
import http.client
import json
import re
import urllib.error
import urllib.request
from contextlib import closing

from .process import Process, free_port, run, wait_until

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


class Mirror:
    """`roadstead serve` on ports and a cache folder of its own.

    `upstreams` maps names to tables of `[upstream.NAME]`; further tables, such as `freshness`, are keywords.
    """

    def __init__(self, binary, name, folder, upstreams, port=None, environment=None, **tables):
        self.name = name
        self.port = port or free_port()
        self.admin_port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.cache = folder / "cache"
        self._binary = binary
        self._environment = environment
        self._process = None
        folder.mkdir(parents=True)
        self._config = folder / "roadstead.toml"
        tables = {
            "server": {"listen": self.address, "shutdown_timeout": "30s"},
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "cache": {"dir": str(self.cache), "max_size": "20GiB", "min_free": "1%"},
            # A tag is checked on every pull: nothing passes for fresh by chance.
            "freshness": {"fresh_for": "0s", "negative": "0s"},
        } | tables
        lines = []
        for table, keys in [*tables.items(), *((f"upstream.{json.dumps(name)}", keys) for name, keys in upstreams.items())]:
            lines += [f"[{table}]", *(f"{key} = {toml(value)}" for key, value in keys.items()), ""]
        self._config.write_text("\n".join(lines))
        self.start()

    def start(self):
        """Starts it, again after a kill, and waits until it is ready."""
        self._process = Process(self.name, [self._binary, "serve", "--config", self._config], env=self._environment)
        wait_until(self._ready, "the mirror is ready", process=self._process)

    @property
    def process(self):
        """The process that runs now; another one after the next start."""
        return self._process

    def kill(self):
        """SIGKILL."""
        self._process.kill()

    def terminate(self):
        """SIGTERM without waiting."""
        self._process.terminate()

    def wait(self, timeout):
        return self._process.wait(timeout)

    def stop(self):
        return self._process.stop()

    def log(self):
        return self._process.log.read_text(errors="replace")

    def open(self, path, headers=None, method="GET"):
        """Sends one request to the mirror: the connection, which the caller closes, and the answer's head."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, headers=headers or {})
        return connection, connection.getresponse()

    def get(self, path, headers=None, method="GET"):
        """One whole exchange: (status, headers, body)."""
        connection, answer = self.open(path, headers, method)
        with closing(connection):
            return answer.status, answer.headers, answer.read()

    def clients(self, client):
        """What `roadstead clients` prints for one: how to point it at this mirror."""
        return run([self._binary, "clients", "--config", self._config, client])

    def switch(self, offline):
        """The switch: not one packet to an upstream while it is `offline`."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin_port}/api/v1/offline", method="POST",
                                         data=json.dumps({"offline": offline}).encode(),
                                         headers={"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=5).close()

    def metric(self, name, **labels):
        """The sum of a metric's samples over all that have these labels."""
        total = 0.0
        for line in self._admin("/metrics").decode().splitlines():
            if (sample := _SAMPLE.match(line)) and sample[1] == name:
                found = dict(re.findall(r'(\w+)="([^"]*)"', sample[2] or ""))
                if labels.items() <= found.items():
                    total += float(sample[3])
        return total

    def published(self):
        """Every file under `blobs/`."""
        return [path for path in self.cache.glob("blobs/*/*") if path.is_file()]

    def in_flight(self):
        """Every file of a fill that has not been published."""
        ingest = self.cache / "ingest"
        return [path for path in ingest.rglob("*") if path.is_file()] if ingest.is_dir() else []

    def wrongly_published(self):
        """Files under `blobs/` whose name is not the digest of their content (I1); should be none, ever."""
        wrong = []
        for path in self.published():
            with open(path, "rb") as file:
                if hashlib.file_digest(file, path.parent.name).hexdigest() != path.name:
                    wrong.append(path)
        return wrong

    def _admin(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=5) as answer:
            return answer.read()

    def _ready(self):
        try:
            self._admin("/readyz")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True
