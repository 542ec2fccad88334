#!/bin/bash
# Runs the demo, services with everything a node gives them, and the programs named as arguments, on an ordinary
# Debian 12 with systemd and cgroup v2, in a virtual machine.
#
# The machine is made here from Debian's packages and emulated without hardware help, so it is slow but runs
# anywhere. What is made is kept in target/vm and used again; the disk is made anew each time, so nothing of an
# earlier run is left. Needs root (Debian's root file system holds device nodes and owners).
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD/packaging/vm
work=$PWD/target/vm
seconds=${AOS_VM_SECONDS:-1500}
built=target/${AOS_VM_PROFILE:-release}
say() { echo "== $*"; }

if [ "$(id -u)" != 0 ]; then
  echo "Making a Debian root file system needs root: run this as root." >&2
  exit 1
fi

missing=()
for package in qemu-system-x86 mmdebstrap e2fsprogs busybox-static cpio kmod; do
  dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${missing[*]}"
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
fi
mkdir -p "$work"

# --- kernel and its modules -------------------------------------------------------------------------------
if [ ! -e "$work/kernel/done" ]; then
  rm -rf "$work/kernel"; mkdir -p "$work/kernel/deb"
  apt-get update -q >/dev/null
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/{print $2; exit}')
  say "fetching the kernel ($package)"
  (cd "$work/kernel/deb" && apt-get download -q "$package" >/dev/null 2>&1)
  dpkg -x "$work"/kernel/deb/*.deb "$work/kernel/root"
  touch "$work/kernel/done"
fi
version=$(basename "$work"/kernel/root/lib/modules/*)
modules=$work/kernel/root/lib/modules/$version
[ -e "$modules/modules.dep" ] || depmod -b "$work/kernel/root" "$version"

# --- root file system ---------------------------------------------------------------------------------------
if [ ! -e "$work/debian.done" ]; then
  say "making a Debian root file system (about a minute)"
  sources=()
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -s "$file" ] && sources+=("$file")
  done
  rm -rf "$work/debian"
  mmdebstrap --quiet --variant=minbase \
    --include=systemd,systemd-sysv,dbus,kmod,crun,runc,softhsm2,nftables,iproute2,busybox-static,ca-certificates \
    bookworm "$work/debian" "${sources[@]}" >"$work/debian.log" 2>&1 || { tail -20 "$work/debian.log"; exit 1; }
  touch "$work/debian.done"
fi

say "making the disk"
programs=("$@")
parts=(./aos-demo ./packaging/vm/services.sh)
[ -z "${AOS_VM_PARTS:-}" ] || read -ra parts <<<"$AOS_VM_PARTS"
root=$work/root
rm -rf "$root"; cp -a "$work/debian" "$root"
mkdir -p "$root/lib/modules" "$root/opt/aosedge"
cp -a "$modules" "$root/lib/modules/"
for program in aos aos-cloud aosctl aos-demo aos-box; do
  [ -x "$built/$program" ] && cp "$built/$program" "$root/opt/aosedge/"
done
strip --strip-debug "$root"/opt/aosedge/* 2>/dev/null || true
cp -r packaging "$root/opt/aosedge/packaging"
# What the machine does, one after the other; each part ends with a line that tells its result.
{
  echo '#!/bin/sh'
  echo 'part() { echo "== $*"; "$@"; echo "AOS-VM-RESULT: $? $1"; }'
  echo 'cd /opt/aosedge'
  for part in "${parts[@]}"; do echo "part $part"; done
  for program in ${programs[@]+"${programs[@]}"}; do
    cp "$program" "$root/opt/aosedge/"
    echo "part ./$(basename "$program")"
  done
} > "$root/opt/aosedge/all"
chmod 755 "$root/opt/aosedge/all" "$root/opt/aosedge/packaging/vm/services.sh"
echo aos-vm > "$root/etc/hostname"
printf '127.0.0.1 localhost aos-vm\n' > "$root/etc/hosts"
dd if=/dev/urandom bs=16 count=1 status=none | od -An -tx1 | tr -d ' \n' > "$root/etc/machine-id"
echo >> "$root/etc/machine-id"
cat > "$root/etc/systemd/system/aos-demo.service" <<'UNIT'
[Unit]
Description=AosEdge demo and tests, once
After=multi-user.target

[Service]
Type=oneshot
Delegate=yes
Environment=DEMO_EXIT=1 HOME=/root DEMO_PATIENCE=8
ExecStart=/opt/aosedge/all
ExecStopPost=/bin/sh -c 'systemctl --no-block poweroff'
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity

[Install]
WantedBy=graphical.target
UNIT
# Without udev the serial console never shows up as a device, and a login on it would be waited for.
ln -s /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
mkdir -p "$root/etc/systemd/system/graphical.target.wants"
ln -s ../aos-demo.service "$root/etc/systemd/system/graphical.target.wants/aos-demo.service"
rm -f "$work/disk.img"; truncate -s 3G "$work/disk.img"
mkfs.ext4 -q -F -O quota -d "$root" "$work/disk.img"
rm -rf "$root"

# --- first programs -----------------------------------------------------------------------------------------
boot=$work/boot
rm -rf "$boot"; mkdir -p "$boot"/{bin,dev,proc,sys,root,modules}
cp /bin/busybox "$boot/bin/busybox"
cp "$here/init" "$boot/init"; chmod 755 "$boot/init"
order=()
add() { # a module and, before it, what it needs
  local path
  path=$(grep -m1 -oE "^[^:]*/$1\.ko[^:]*" "$modules/modules.dep") || return 0
  local needs
  needs=$(grep -m1 "^$path:" "$modules/modules.dep" | cut -d: -f2)
  for file in $(tac -s' ' <<<"$needs ") $path; do
    local name; name=$(basename "$file")
    [[ " ${order[*]} " == *" $name "* ]] && continue
    cp "$modules/$file" "$boot/modules/$name"
    order+=("$name")
  done
}
for module in virtio_pci virtio_blk ext4 crc32c_generic quota_v2; do add "$module"; done
printf '%s\n' "${order[@]}" > "$boot/modules/order"
(cd "$boot" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/initrd.gz"

# --- run ----------------------------------------------------------------------------------------------------
say "starting the machine (emulated; stops by itself, at most $seconds s)"
log=$work/console.log
timeout --kill-after=10 "$seconds" qemu-system-x86_64 \
  -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nographic -no-reboot -nic none \
  -kernel "$work"/kernel/root/boot/vmlinuz-* -initrd "$work/initrd.gz" \
  -append "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=false systemd.unified_cgroup_hierarchy=1" \
  -drive "file=$work/disk.img,if=virtio,format=raw,cache=unsafe" </dev/null >"$log" 2>&1 || true
sed 's/\r$//' "$log" | grep -av '^\[ ' | tail -80
passed=$(grep -ac '^AOS-VM-RESULT: 0 ' "$log" || true)
wanted=$((${#parts[@]} + ${#programs[@]}))
echo "$passed passed, $((wanted - passed)) failed"
if [ "$passed" != "$wanted" ]; then
  echo "Not everything succeeded in the machine; the whole console is in $log" >&2
  exit 1
fi
