#!/usr/bin/env bash
# Installs the Debian packages that imgcls needs, where they are missing. As root or with sudo.
# usage: launch/install-debian.sh [--tests]
set -euo pipefail

packages=(build-essential cmake ninja-build pkg-config git
  libopenmpi-dev openmpi-bin libdnnl-dev libhdf5-dev libini-config-dev libjansson-dev
  libjpeg62-turbo-dev libspng-dev libgif-dev libgdk-pixbuf-2.0-dev libxxhash-dev
  librandom123-dev libhwloc-dev libprotobuf-c-dev protobuf-c-compiler zlib1g-dev dataset-fashion-mnist)
if [[ "${1:-}" == --tests ]]; then
  packages+=(libcmocka-dev python3 python3-venv libfiu-dev fiu-utils hdf5-tools)
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
  [[ "$status" == "install ok installed" ]] || missing+=("$package")
done
if (( ${#missing[@]} == 0 )); then
  echo "packages: all installed"
  exit 0
fi

root=()
if (( EUID != 0 )); then
  command -v sudo >/dev/null || {
    echo "install-debian.sh: missing: ${missing[*]}; run as root or install sudo" >&2
    exit 77
  }
  root=(sudo)
fi
echo "packages: installing ${missing[*]}"
"${root[@]}" apt-get update -qq
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
