#!/usr/bin/env bash
# Export and import against `tar` and `sha256sum` over the same bytes, in one run.
#
#   benches/transfer.sh [MEBIBYTES] [FOLDER]      by default 2048 MiB below /tmp; ROADSTEAD names the (release) binary
#
# Prints seconds and the ratio (theirs ÷ ours: 1.0 is as fast, more is faster), and the largest resident memory of ours.
# All files are in the page cache before, and both sides end with a sync of what they wrote.
set -euo pipefail
mebibytes=${1:-2048} roadstead=${ROADSTEAD:-target/release/roadstead}
work=$(mktemp -d "${2:-/tmp}/roadstead-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

# A docker-archive-free layout of 64 MiB layers of random bytes, made by hand, and imported once.
python3 - "$work" "$mebibytes" <<'PY'
import hashlib, json, os, sys
folder, total = sys.argv[1] + "/layout", int(sys.argv[2]) << 20
blobs = folder + "/blobs/sha256/"
os.makedirs(blobs)
def put(data, kind):
    digest = hashlib.sha256(data).hexdigest()
    with open(blobs + digest, "wb") as file:
        file.write(data)
    return {"mediaType": kind, "digest": "sha256:" + digest, "size": len(data)}
oci = "application/vnd.oci.image."
layers = [put(os.urandom(64 << 20), oci + "layer.v1.tar") for _ in range(max(1, total >> 26))]
config = put(json.dumps({"os": "linux", "architecture": "amd64"}).encode(), oci + "config.v1+json")
manifest = put(json.dumps({"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config, "layers": layers}).encode(),
               oci + "manifest.v1+json")
manifest["annotations"] = {"org.opencontainers.image.ref.name": "docker.io/library/bench:1"}
json.dump({"schemaVersion": 2, "manifests": [manifest]}, open(folder + "/index.json", "w"))
open(folder + "/oci-layout", "w").write('{"imageLayoutVersion":"1.0.0"}')
PY
tar -C "$work/layout" -cf "$work/theirs.tar" oci-layout index.json blobs
sync

# timed COMMAND...: its seconds, and its peak memory in KiB, as "SECONDS KIB".
timed() {
    python3 - "$@" <<'PY'
import resource, subprocess, sys, time
start = time.monotonic()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(f"{time.monotonic() - start:.2f} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}")
PY
}

read -r ours_in memory_in < <(timed "$roadstead" import --cache-dir "$work/cache" "$work/theirs.tar")
read -r theirs_in _ < <(timed bash -c "mkdir '$work/out' && tar -C '$work/out' -xf '$work/theirs.tar' && (cd '$work/out' && sha256sum blobs/sha256/*) && sync -f '$work/out'")
rm -rf "$work/out"
read -r ours_out memory_out < <(timed bash -c "'$roadstead' export --cache-dir '$work/cache' --all -o '$work/ours.tar' && sync '$work/ours.tar'")
rm "$work/ours.tar"
read -r theirs_out _ < <(timed bash -c "tar -C '$work/layout' -cf '$work/again.tar' oci-layout index.json blobs && (cd '$work/layout' && sha256sum blobs/sha256/*) && sync '$work/again.tar'")
ratio() { python3 -c "print(f'{$1 / $2:.2f}')"; }
echo "          ours     tar+sha256sum   ratio   peak memory"
printf 'import  %6s s       %6s s    %5s   %d MiB\n' "$ours_in" "$theirs_in" "$(ratio "$theirs_in" "$ours_in")" $((memory_in / 1024))
printf 'export  %6s s       %6s s    %5s   %d MiB\n' "$ours_out" "$theirs_out" "$(ratio "$theirs_out" "$ours_out")" $((memory_out / 1024))
