"""The servers that are compared: how each is started in front of an upstream, and what the kernel says of its cost."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from client import Failed
from harness.mirror import Mirror
from harness.process import Process, free_port, listens, wait_until

BESIDE = "Roadstead, the other build"
_TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """One running server: `port`, and the cost of its processes, children included. `secure`: the same one over TLS."""

    secure = None

    def __init__(self, port, process, stop=None, scheme="http"):
        self.port, self.scheme = port, scheme
        self.address = f"127.0.0.1:{port}"
        self.process = process
        self.stop = stop or process.stop

    def _pids(self):
        pids, waiting = [], [self.process.pid]
        while waiting:
            pids.append(pid := waiting.pop())
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += map(int, children.read_text().split())
        return pids

    def cpu(self):
        """Seconds of user and system time so far."""
        ticks = 0
        for pid in self._pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS

    def rss(self):
        """Resident bytes, the sum over its processes (what they share counts in each)."""
        total = 0
        for pid in self._pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
        return total


def certificate(folder):
    """(certificate, key) of 127.0.0.1 in `folder`, made once: both servers show the same one."""
    paths = folder / "tls.pem", folder / "tls.key"
    if paths[1].exists():
        return paths
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", paths[0], "-keyout", paths[1]],
                   check=True, capture_output=True)
    return paths


def roadstead(binary, log, folder, upstream):
    """As shipped: defaults, but for the addresses, the cache's folder and what one client may hold. The log goes to a file,
    as nginx's does."""
    port, secure = free_port(), free_port()
    cert, key = certificate(folder.parent)
    mirror = Mirror(binary, log, folder, {"docker.io": {"url": f"http://127.0.0.1:{upstream}"}},
                    server={"listen": [f"plain:127.0.0.1:{port}", f"127.0.0.1:{secure}"],
                            "tls": {"cert": str(cert), "key": str(key)}, "max_connections_per_client": 20_000},
                    cache={"dir": str(folder / "cache")}, freshness={"fresh_for": "1m"}, port=port)
    server = Server(port, mirror.process, mirror.stop)
    server.secure = Server(secure, mirror.process, scheme="https")
    server.requests = lambda: mirror.metric("roadstead_requests_total")
    return server


def nginx(folder, upstream):
    """proxy_cache with three ports on one cache: `port` writes no access log, `logging.port` writes one, `secure.port` is TLS."""
    folder.mkdir()
    ports = free_port(), free_port(), free_port()
    cert, key = certificate(folder.parent)
    tls = f"ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.3; ssl_session_cache shared:s:10m;"
    kinds = zip(ports, ("", "", "ssl"), ("", "", tls), ("off", folder / "access.log", "off"))
    servers = "".join(f"""
  server {{ listen 127.0.0.1:{port} backlog=4096 {ssl}; access_log {log}; {more}
    location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_cache z; proxy_cache_lock on; proxy_cache_lock_age 1h;
      proxy_cache_lock_timeout 1h; proxy_cache_valid 200 1h; proxy_cache_key $uri$http_accept;
      proxy_read_timeout 1h; }} }}""" for port, ssl, more, log in kinds)
    temporary = "".join(f"  {kind}_temp_path {folder}/{kind};\n"
                        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(f"""
worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off; {'user root;' if os.geteuid() == 0 else ''}
events {{ worker_connections 16384; }}
http {{
  sendfile on; tcp_nopush on; keepalive_requests 100000000;
{temporary}  proxy_cache_path {folder}/cache keys_zone=z:10m max_size=50g levels=1:2 use_temp_path=off;{servers}
}}""")
    process = Process("nginx", ["nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log"])
    wait_until(lambda: listens(ports[0]), "nginx listens", process=process)
    server = Server(ports[0], process)
    server.logging = Server(ports[1], process)
    server.secure = Server(ports[2], process, scheme="https")
    return server


def docker_registry(folder, upstream):
    """Debian's distribution as a pull-through cache."""
    folder.mkdir()
    port = free_port()
    (folder / "config.yml").write_text(json.dumps({
        "version": 0.1, "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "cache")}, "cache": {"blobdescriptor": "inmemory"}},
        "http": {"addr": f"127.0.0.1:{port}"}, "proxy": {"remoteurl": f"http://127.0.0.1:{upstream}"}}))
    process = Process("docker-registry", ["docker-registry", "serve", folder / "config.yml"])
    wait_until(lambda: listens(port), "docker-registry listens", process=process)
    return Server(port, process)


def drayage(program, folder, upstream):
    """drayage with its defaults."""
    (folder / "cache").mkdir(parents=True)
    port = free_port()
    (folder / "config.toml").write_text(f'listen = "127.0.0.1:{port}"\ncache_dir = {json.dumps(str(folder / "cache"))}\n'
                                        f'[upstreams.docker_io]\nregistry = "http://127.0.0.1:{upstream}"\n')
    process = Process("drayage", [program, "serve", "-c", folder / "config.toml"])
    wait_until(lambda: listens(port), "drayage listens", process=process)
    return Server(port, process)


class Peers:
    """What is installed here, in the order of the table's columns."""

    def __init__(self, binary, beside, virtual_environment):
        self.missing = {}
        self._starts = {name: (lambda *where, build=build, log=log: roadstead(build, log, *where), [build, "--version"])
                        for name, build, log in (("Roadstead", binary, "roadstead"), (BESIDE, beside, "beside")) if build}
        for name, start, how in (("nginx", nginx, "apt-get install nginx"),
                                 ("docker-registry", docker_registry, "apt-get install docker-registry")):
            if shutil.which(name):
                self._starts[name] = (start, [name, "-v" if name == "nginx" else "--version"])
            else:
                self.missing[name] = f"not installed ({how})"
        program = shutil.which("drayage") or shutil.which("drayage", path=virtual_environment / "bin")
        if program:
            self._starts["drayage"] = (lambda *where: drayage(program, *where), [program, "--version"])
        else:
            self.missing["drayage"] = "not installed (`--install`)"

    def names(self):
        return list(self._starts)

    def start(self, name, folder, upstream):
        """Starts it with an empty cache in `folder`, which must not exist."""
        try:
            return self._starts[name][0](folder, upstream)
        except RuntimeError as failure:
            raise Failed(f"did not start: {failure}") from failure

    def versions(self):
        found = {}
        for name, (_, command) in self._starts.items():
            said = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
            found[name] = (said.stdout + said.stderr).strip().splitlines()[0]
        return found


def install_drayage(virtual_environment):
    """From PyPI into a virtual environment of its own."""
    subprocess.run(["python3", "-m", "venv", virtual_environment], check=True)
    subprocess.run([virtual_environment / "bin" / "pip", "install", "--quiet", "drayage==0.2.9"], check=True)
