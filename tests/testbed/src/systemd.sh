# First program of a systemd box: this machine's own system on a throw-away overlay, with systemd as its first process.
# usage: sh -c "$(cat systemd.sh)" sh WORK PROGRAMS PACKAGING
set -e
work=$1 programs=$2 packaging=$3
mkdir -p "$work"
mount -t tmpfs -o mode=755,size=2g tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
cd "$work/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
# Nodes of its own: systemd gives some of them other owners and rights.
node() { mknod -m "$1" "dev/$2" "$3" "$4" "$5"; }
node 666 null c 1 3; node 666 zero c 1 5; node 666 full c 1 7; node 666 random c 1 8; node 666 urandom c 1 9
node 666 tty c 5 0; node 600 console c 1 3; node 660 loop-control c 10 237
for number in 0 1 2 3 4 5 6 7; do node 660 "loop$number" b 7 "$number"; done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
for pair in "programs $programs" "packaging $packaging"; do
  set -- $pair
  mkdir -p "opt/aosedge/$1"
  mount --bind "$2" "opt/aosedge/$1"
done
hostname aos-box
echo aos-box > etc/hostname
# Nothing of what this machine would start by itself.
find etc/systemd/system -path '*.wants/*' -delete
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-networkd.service systemd-resolved.service \
  systemd-timesyncd.service systemd-firstboot.service systemd-modules-load.service systemd-pcrphase.service getty.target \
  dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
  sys-fs-fuse-connections.mount ldconfig.service; do
  ln -sf /dev/null "etc/systemd/system/$unit"
done
: > etc/fstab
mkdir -p etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\n' > etc/systemd/journald.conf.d/box.conf
# A first boot would enable whatever is installed.
rm -f etc/machine-id
tr -d - < /proc/sys/kernel/random/uuid > etc/machine-id
legacy=
[ -e /sys/fs/cgroup/cgroup.controllers ] || legacy="systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1"
mkdir -p .outside
pivot_root . .outside
umount -l /.outside
exec env -i container=aos-box PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target $legacy
