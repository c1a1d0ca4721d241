#!/usr/bin/env bash
# Sets a Jetson Orin with JetPack 6 or 7.2 up for zerograsp-edge: see --help and docs/jetson.md.
# Running it again changes nothing that is already right.
set -euo pipefail

readonly RULES=etc/udev/rules.d/99-realsense-libusb.rules
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

dry_run=false
camera=true
fastest=false
venv=$HOME/zerograsp
package=$here
root=/

usage() {
  cat <<'TEXT'
Usage: setup_orin.sh [options]

Sets a Jetson Orin with JetPack 6 (L4T R36) or 7.2 (R39) up for zerograsp-edge: NVIDIA's packages and what compiles the
native core, rules for RealSense cameras, a virtual environment with the package, and `zerograsp-edge doctor`.
Asks for the password of sudo where it needs it. May be run again at any time.

  --dry-run        print every command instead of running it
  --venv FOLDER    virtual environment, default ~/zerograsp
  --package WHAT   what pip installs: a wheel or a source folder, default the one this script lies in
  --no-camera      no RealSense camera: neither its rules nor its Python package
  --fastest        switch to the fastest power mode now and lock the clocks (until the next boot)
  --root FOLDER    read /etc of another file system (for tests)
  --help           this text
TEXT
}

say() { printf '%s\n' "$*"; }
fail() {
  printf 'setup_orin.sh: %s\n' "$*" >&2
  exit 1
}

# Runs a command, or prints it.
run() {
  if $dry_run; then
    printf '+'
    printf ' %q' "$@"
    printf '\n'
  else
    "$@"
  fi
}

value() {
  [ $# -ge 2 ] || fail "$1: expected a value; see --help"
  printf '%s' "$2"
}

while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry_run=true ;;
    --no-camera) camera=false ;;
    --fastest) fastest=true ;;
    --venv)
      venv=$(value "$@")
      shift
      ;;
    --package)
      package=$(value "$@")
      shift
      ;;
    --root)
      root=$(value "$@")
      shift
      ;;
    --help | -h) usage && exit 0 ;;
    *) fail "$1: unknown option; see --help" ;;
  esac
  shift
done
root=${root%/}

# ---- which JetPack ----

release_file=$root/etc/nv_tegra_release
[ -r "$release_file" ] || fail "no $release_file: this is not a Jetson, or its Jetson Linux is incomplete; flash it with SDK Manager"
first_line=$(head -n 1 "$release_file")
if [[ $first_line =~ R([0-9]+)\ \(release\),\ REVISION:\ ([0-9]+)\.([0-9]+) ]]; then
  major=${BASH_REMATCH[1]} minor=${BASH_REMATCH[2]} patch=${BASH_REMATCH[3]}
else
  fail "$release_file: expected '# R36 (release), REVISION: 4.3, ...', got '$first_line'"
fi
case $major in
  36) jetpack=6 python=3.10 tensorrt=10.3 ;;
  39) jetpack=7 python=3.12 tensorrt=10.16 ;;
  38) fail "L4T R38 (JetPack 7.0, 7.1) does not support Orin; install JetPack 7.2 (R39) or 6.2 (R36)" ;;
  *) fail "expected L4T R36 (JetPack 6) or R39 (JetPack 7.2), got R$major; flash one of them with SDK Manager" ;;
esac
say "Jetson Linux R$major.$minor.$patch: JetPack $jetpack, Python $python, TensorRT $tensorrt expected"
if [ "$major" = 36 ] && [ "$minor" -lt 4 ]; then
  say "note: JetPack 6.2 (R36.4.3) or newer is what this was written for; upgrade with: sudo apt-get dist-upgrade"
fi
if ! $dry_run && [ "$(uname -m)" != aarch64 ]; then
  fail "expected an aarch64 machine, got $(uname -m)"
fi
if [ ! -e "$package" ]; then
  fail "--package $package: no such file or folder"
fi

# ---- packages ----

# nvidia-jetpack has CUDA, TensorRT with its headers and Python module, and their tools.
packages=(nvidia-jetpack build-essential cmake ninja-build "python$python-dev" "python$python-venv")
if $camera; then packages+=(libusb-1.0-0); fi
missing=()
for name in "${packages[@]}"; do
  if ! dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed'; then
    missing+=("$name")
  fi
done
if [ ${#missing[@]} -gt 0 ]; then
  run sudo apt-get update
  run sudo apt-get install -y --no-install-recommends "${missing[@]}"
else
  say "packages: all there"
fi

# ---- camera ----

rules() {
  cat <<'TEXT'
# RealSense cameras, and their motion sensors, for members of plugdev and whoever sits at the machine.
SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{idVendor}=="8086", MODE="0660", GROUP="plugdev", TAG+="uaccess"
KERNEL=="iio*", ATTRS{idVendor}=="8086", MODE="0660", GROUP="plugdev", TAG+="uaccess"
TEXT
}

if $camera; then
  if compgen -G "$root/etc/udev/rules.d/*realsense*.rules" >/dev/null || compgen -G "$root/usr/lib/udev/rules.d/*realsense*.rules" >/dev/null; then
    say "camera: udev rules are there"
  elif $dry_run; then
    say "+ write /$RULES:"
    rules | sed 's/^/    /'
    run sudo udevadm control --reload-rules
    run sudo udevadm trigger
  else
    rules | sudo tee "/$RULES" >/dev/null
    sudo udevadm control --reload-rules
    sudo udevadm trigger
  fi
  user=${USER:-$(id -un)}
  if ! id -nG "$user" 2>/dev/null | tr ' ' '\n' | grep -qx plugdev; then
    run sudo usermod -aG plugdev "$user"
    say "camera: membership in plugdev begins at the next login"
  fi
fi

# ---- package ----

# TensorRT's Python module belongs to the system, so the environment has to see the system's packages.
if [ -x "$venv/bin/python" ]; then
  grep -qi '^include-system-site-packages *= *true' "$venv/pyvenv.cfg" ||
    fail "$venv does not see the system's packages, where TensorRT's Python module is: remove it, or give another --venv"
  say "environment: $venv is there"
else
  run "python$python" -m venv --system-site-packages "$venv"
fi
extras=jetson
if $camera; then extras+=,camera; fi
run "$venv/bin/python" -m pip install --upgrade pip
# PyCUDA is compiled here, and finds CUDA by nvcc.
run env "PATH=/usr/local/cuda/bin:$PATH" "CUDA_ROOT=/usr/local/cuda" "$venv/bin/python" -m pip install "${package}[$extras]"

# ---- power mode ----

if $fastest; then
  conf=$root/etc/nvpmodel.conf
  [ -r "$conf" ] || fail "no $conf: the power modes of this module are unknown"
  # Modules number their modes differently; MAXN_SUPER, where there is one, is faster than MAXN.
  mode=$(sed -nE 's/^< *POWER_MODEL +ID=([0-9]+) +NAME=(MAXN[A-Z_]*) *>.*/\2 \1/p' "$conf" | sort -r | head -n 1)
  [ -n "$mode" ] || fail "$conf: no mode is called MAXN"
  say "power mode: ${mode% *}"
  run sudo nvpmodel -m "${mode#* }"
  run sudo jetson_clocks
fi

# ---- what is there now ----

run "$venv/bin/zerograsp-edge" doctor
say "next: source $venv/bin/activate, then zerograsp-edge build (docs/jetson.md)"
