#!/bin/bash
# Installs what building, demo and tests need and this Debian machine lacks. No service is started.
#
# usage: setup-host.sh [EXTRA-PACKAGE...]
set -euo pipefail

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

command -v cargo >/dev/null || fail "cargo is missing. Install a Rust toolchain (1.95 or newer), for example with https://rustup.rs, and run this again."

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=()
need() { # PACKAGE TEST...: the package is wanted when the test fails
  local package=$1; shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}

need crun command -v crun
need runc command -v runc
need softhsm2 test -e /usr/lib/softhsm/libsofthsm2.so
need nftables command -v nft
need iproute2 command -v ip
need util-linux command -v nsenter
need procps test -x /usr/bin/kill
need busybox-static installed busybox-static
# Images as others make them, a real service to put into one, and a way to be killed at any step.
need squashfs-tools-ng command -v sqfs2tar
need umoci command -v umoci
need zstd command -v zstd
need nginx-light test -x /usr/sbin/nginx
need python3 test -x /usr/bin/python3
need strace command -v strace
# Disk quotas on file systems of the tests' own, and a second kernel (cgroup v2, VLANs, user quota) to test with.
need e2fsprogs command -v mkfs.ext4
need btrfs-progs command -v mkfs.btrfs
need quota command -v quotaon
need user-mode-linux command -v linux.uml
need kmod test -x /sbin/modprobe
# systemd and journald in a box of their own; they do not become the system of this machine.
need systemd test -x /lib/systemd/systemd
# An emulated TPM 2.0 behind a resource manager, for the tests with keys in a TPM.
need swtpm command -v swtpm
need tpm2-tools command -v tpm2_getcap
need opensc command -v pkcs11-tool
need dbus-daemon command -v dbus-run-session
for package in libtpm2-pkcs11-1 tpm2-abrmd libtss2-tcti-tabrmd0 libtss2-tcti-swtpm0; do
  need "$package" installed "$package"
done
# A wall clock of a test's own.
need libfaketime installed libfaketime
need python3-venv python3 -c 'import venv, ensurepip'
if ! command -v cc >/dev/null; then missing+=(gcc libc6-dev); fi
for package in "$@"; do need "$package" installed "$package"; done

if [ ${#missing[@]} -eq 0 ]; then
  say "everything needed is installed"
  exit 0
fi

command -v apt-get >/dev/null || fail "missing: ${missing[*]}. This machine has no apt-get; install them by hand and run this again."
[ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}. Installing needs root: run \`sudo make setup\` (or as root), then this again."

# Packages may want to start their services. The policy file is how Debian lets us say no.
policy=/usr/sbin/policy-rc.d
saved=$policy.before-aos
restore() {
  if [ -e "$saved" ]; then mv -f "$saved" "$policy"; else rm -f "$policy"; fi
}
if [ -e "$saved" ]; then mv -f "$saved" "$policy"; fi
if [ -e "$policy" ]; then mv "$policy" "$saved"; fi
trap restore EXIT
printf '#!/bin/sh\nexit 101\n' > "$policy"
chmod 755 "$policy"

say "installing ${missing[*]} (services are not started)"
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }
if ! install 2>/dev/null; then
  say "refreshing the package lists first"
  apt-get update -qq
  install || fail "apt-get could not install ${missing[*]}; its messages are above"
fi
say "done"
