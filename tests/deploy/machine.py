"""A systemd that is booted for a test, in namespaces of its own.

/usr is this machine's, read-only; everything else is made here and gone with it. It shares the network namespace of whoever starts
it, so that the test and its servers are on its loopback. Ends with the process that began it, however that ends.
"""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

NEEDED = ("unshare", "nsenter", "setpriv", "pivot_root", "systemctl", "mount", "mknod")

# A group of its own, so that this systemd leaves alone what is not its; when it has ended, the group goes.
OUTSIDE = r"""
set -e
mount -t cgroup2 cgroup2 "$1/groups"
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
group=$1/groups$own/roadstead-$$
mkdir "$group"
echo 0 > "$group/cgroup.procs"
setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --uts --ipc --cgroup --propagation=slave bash -c "$2" bash "$1" "$3" "$4" &
wait $! || true
echo 0 > "$1/groups$own/cgroup.procs"
# What was killed may take a moment to leave.
for _ in $(seq 100); do
    find "$group" -depth -type d -exec rmdir {} + 2> /dev/null && break
    sleep 0.1
done
"""

INSIDE = r"""
set -e
root=$1/root
mount -t tmpfs -o mode=755 root "$root"
cd "$root"
mkdir -p dev etc home proc root run source/target/release sys tmp usr var old
mount --rbind --make-rprivate /usr usr
mount -o remount,bind,ro usr
for name in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then cp -d "/$name" "$name"; elif [ -d "/$name" ]; then mkdir "$name"; mount --bind -o ro "/$name" "$name"; fi
done
mount -t tmpfs -o mode=755 local usr/local
mkdir -p usr/local/bin
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
for node in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do mknod -m 666 dev/${node% *} c 1 ${node#* }; done
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n' > etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' > etc/group
printf 'passwd: files systemd\ngroup: files systemd\nhosts: files\n' > etc/nsswitch.conf
printf '127.0.0.1 localhost\n' > etc/hosts
# With one it is no first boot.
tr -d - < /proc/sys/kernel/random/uuid > etc/machine-id
cp /etc/ld.so.cache etc/
cp "$2" source/target/release/roadstead
cp -r "$3" source/deploy
# Whatever this distribution starts by itself is not what is tested.
mkdir -p etc/systemd/system
ln -s /dev/null etc/systemd/system/systemd-resolved.service
pivot_root . old
umount -l old
rmdir old
# As a systemd without a container around it would do itself: credentials come by such a mount.
mount --make-rshared /
export container=roadstead-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec /lib/systemd/systemd --unit=basic.target --log-target=console --show-status=no
"""


def own_network():
    """Loopback only, and nobody else's ports."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000):
        raise OSError(ctypes.get_errno(), "no network namespace")
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 1)
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS, IFF_UP


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Machine:
    """A systemd that runs. /source has `binary` as a build leaves it, and a copy of `deploy`."""

    def __init__(self, folder, binary, deploy):
        (folder / "root").mkdir()
        (folder / "groups").mkdir()
        self.console = folder / "console"
        with open(self.console, "w") as console:
            # Of its own mounts nobody else sees anything.
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation=private", "bash", "-c", OUTSIDE, "bash", folder, INSIDE, binary, deploy],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True, preexec_fn=die_with_parent)
        self.leader = None
        try:
            self.leader = self.wait(self.find_leader, "systemd runs")
            self.wait(lambda: self.run("systemctl", "is-active", "basic.target").returncode == 0, "it has booted")
        except BaseException:
            self.end()
            raise

    def wait(self, condition, what):
        for _ in range(1200):
            if value := condition():
                return value
            if self.process.poll() is not None:
                raise AssertionError(f"the machine ended before {what}:\n{self.console.read_text()[-3000:]}")
            time.sleep(0.05)
        raise AssertionError(f"waited in vain: {what}\n{self.console.read_text()[-3000:]}")

    def find_leader(self):
        """The process that is number 1 in there."""
        below = [self.process.pid]
        for pid in below:
            try:
                below += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return pid
            except OSError:
                pass
        return None

    def run(self, *words, check=False):
        """A command in there, as root."""
        ran = subprocess.run(
            ["nsenter", f"--target={self.leader}", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--root",
             "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
             *map(str, words)], capture_output=True, text=True, timeout=120)
        if check and ran.returncode:
            raise AssertionError(f"{words}: {ran.returncode}\n{ran.stdout}{ran.stderr}\n{self.log()}")
        return ran

    def sh(self, script):
        return self.run("sh", "-ec", f"cd /source\n{script}", check=True).stdout

    def path(self, inside):
        """Of a file in there, from outside."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def show(self, unit, *properties):
        shown = self.run("systemctl", "show", unit, "--property", ",".join(properties), check=True).stdout
        values = dict(line.split("=", 1) for line in shown.splitlines())
        return tuple(values[each] for each in properties)

    def log(self):
        """The end of the mirror's log."""
        lines = self.run("journalctl", "--unit=roadstead.service", "--no-pager", "--output=cat", "--lines=60").stdout.splitlines()
        # /etc/ssl is not there: said of each registry, and of no interest.
        return "\n".join(line for line in lines if "no root certificates" not in line)

    def end(self):
        # With its number 1 everything in there ends, and what waits for that outside.
        if self.leader is None:
            self.process.kill()
        elif self.process.poll() is None:
            os.kill(self.leader, signal.SIGKILL)
        self.process.wait(60)
