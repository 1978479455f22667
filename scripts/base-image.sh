#!/usr/bin/env bash
# Make a Debian base image with Python 3.11 where no image registry can be reached.
# Usage: scripts/base-image.sh [NAME]     (root; needs debootstrap and a running docker engine)
# Takes the Debian mirror and the CA certificates of this machine, so that a build inside works where this machine does.
set -euo pipefail
name=${1:-emoverse-base-python:3.11}
command -v debootstrap >/dev/null || { echo "base-image: debootstrap is missing; apt-get install debootstrap" >&2; exit 2; }
docker info >/dev/null 2>&1 || { echo "base-image: no docker engine answers; start dockerd" >&2; exit 2; }
mirror=$( (grep -rhoE "https?://[^ ]+/debian/?$" /etc/apt/sources.list.d /etc/apt/sources.list 2>/dev/null || true) | head -1)
root=$(mktemp -d)
chmod 755 "$root"  # apt drops privileges inside
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates bookworm "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 \
  || { tail -20 "$root.log" >&2; exit 1; }
rm -f "$root.log"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
# Debian's Python is configured by scripts that want a mounted /proc: install it after the bootstrap, not within it.
mount -t proc proc "$root/proc"
trap 'umount "$root/proc" 2>/dev/null || true; rm -rf "$root"' EXIT
DEBIAN_FRONTEND=noninteractive chroot "$root" sh -ec 'apt-get update -qq && apt-get install -y -qq --no-install-recommends python3.11 python3.11-venv >/dev/null'
umount "$root/proc"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
tar -C "$root" -c . | docker import --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt' - "$name"
