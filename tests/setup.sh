#!/bin/sh
# Installs the Debian packages named on the command line that are missing. Needs root only when something is missing.
set -u
missing=""
for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: this machine has no apt-get; please install by hand what stands for the Debian packages:$missing" >&2
    exit 0
fi
sudo=""
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "setup: these packages are missing and installing needs root; as root: apt-get install$missing" >&2
        exit 1
    fi
    sudo=sudo
fi
echo "setup: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -20 "$log" >&2
    echo "setup: apt-get failed (log above); install by hand: apt-get install$missing" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"
