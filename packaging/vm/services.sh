#!/bin/sh
# Runs inside the test machine: the shipped units and configuration on systemd with cgroup v2, and services with
# everything a node gives them: network and VLAN, firewall, names, limits, user quota.
set -eu
patience=${SERVICES_SECONDS:-120}
here=/opt/aosedge
oem="aosctl --profile oem"
say() { echo "services: $*"; }
fail() {
  echo "services: FAILED: $*"
  $oem unit status "$(cat /etc/machine-id)" || true
  journalctl -b --no-pager -q -u 'aos-*' -o cat | tail -n 40 || true
  findmnt -rno TARGET,FSTYPE,OPTIONS / || true
  ls -ln /var/aos/workdirs/sm/logs /var/aos/storages /var/aos/storages/* || true
  tail -n 5 /var/aos/workdirs/sm/logs/* || true
  exit 1
}
until_true() { # WHAT COMMAND...: asks again until it succeeds
  what=$1; shift
  end=$(($(date +%s) + patience))
  until "$@" >/tmp/last 2>&1; do
    [ "$(date +%s)" -lt $end ] || { tail -n 20 /tmp/last; fail "waited $patience s for $what"; }
    sleep 0.2
  done
}
has() { # TEXT COMMAND...: what the command prints has the text
  wanted=$1; shift
  "$@" > /tmp/said 2>&1 || { cat /tmp/said; return 1; }
  cat /tmp/said
  grep -qF -- "$wanted" /tmp/said
}
expect() { has "$@" >/tmp/seen 2>&1 || { cat /tmp/seen; fail "no '$1' in what '$2 ${3:-}' says"; }; }
refuse() { # WHAT COMMAND...: the command must not succeed
  what=$1; shift
  if "$@" >/tmp/last 2>&1; then cat /tmp/last; fail "$what"; fi
}

find_pid() { # PATTERN: the process whose command line fits; bracket one of its letters, so that this search does not
  for dir in /proc/[0-9]*; do
    # One that ends meanwhile is none.
    if { tr '\0' ' ' < "$dir/cmdline" | grep -q -- "$1"; } 2>/dev/null; then basename "$dir"; fi
  done
}

[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || fail "this is no pure cgroup v2"

say "a neighbour behind the uplink"
ip netns add outside
ip link add up0 type veth peer name up1 netns outside
ip addr add 10.9.0.1/24 dev up0
ip link set up0 up
ip -n outside addr add 10.9.0.2/24 dev up1
ip -n outside link set up1 up
ip -n outside link set lo up
ip -n outside route add 172.16.0.0/12 via 10.9.0.1
ip route add default via 10.9.0.2
mkdir -p /srv/outside
echo "hello from outside" > /srv/outside/index.html
ip netns exec outside busybox httpd -p 80 -h /srv/outside

say "cloud and Unit, by the document"
for program in aos aos-cloud aosctl; do ln -s $here/$program /usr/bin/$program; done
for name in aos_iamanager aos_communicationmanager aos_servicemanager; do ln -s aos /usr/bin/$name; done
mkdir -p /etc/systemd/system/aos-cloud.service.d
{ echo '[Service]'; echo ExecStart=
  grep ^ExecStart= $here/packaging/systemd/aos-cloud.service | sed 's/$/ --public-host localhost/'
} > /etc/systemd/system/aos-cloud.service.d/host.conf
install -m 644 $here/packaging/systemd/* /lib/systemd/system/
systemctl daemon-reload
systemctl start aos-cloud
until_true "the cloud's certificate" test -s /var/lib/aos-cloud/pki/root.pem
until_true "the first token" test -s /var/lib/aos-cloud/bootstrap-token
mkdir -p /etc/aos/ca /var/aos/iam /var/aos/workdirs/cm /var/aos/workdirs/sm /var/aos/storages /var/aos/states /var/lib/softhsm/tokens
install -m 644 $here/packaging/config/* /etc/aos/
install -m 644 /var/lib/aos-cloud/pki/root.pem /etc/aos/ca/root.pem
systemctl enable -q --now aos-keep.service aos.target
aosctl login --cloud https://localhost:10000 --ca /etc/aos/ca/root.pem --token-file /var/lib/aos-cloud/bootstrap-token
aosctl user create --role oem --company Acme --username kim --save-profile oem
until_true "the Unit's identity manager" systemctl is-active -q aos-iam-prov
$oem unit provision --unit 127.0.0.1 --wait 120
systemctl restart aos.target
unit=$(cat /etc/machine-id)
until_true "the Unit to be online" has nline $oem unit list

say "two services that meet by name, one of them limited"
root=/srv/rootfs
mkdir -p $root/bin $root/www
cp "$(command -v busybox)" $root/bin/busybox
echo "hello from back" > $root/www/index.html
cat > $root/bin/front <<'RUN'
b=/bin/busybox
$b httpd -p 8081 -h /www
get() { printf 'GET / HTTP/1.0\r\n\r\n' | $b nc -w 5 "$1" "$2" | $b grep hello; }
while :; do
  get back 8080 && echo "by name"
  get 10.9.0.2 80 && echo "to the outside"
  $b sleep 2
done
RUN
cat > $root/bin/filler <<'RUN'
b=/bin/busybox
$b dd if=/dev/zero of=/storage/file bs=1k count=4096 2>&1 || echo "no more than $($b stat -c %s /storage/file) bytes"
exec $b sleep 100000
RUN
cat > $root/bin/hog <<'RUN'
exec /bin/busybox awk 'BEGIN { text = "0123456789abcdef"; while (1) text = text text }'
RUN
publish() { # CODENAME ITEM-CONFIGURATION COMMAND [OPTION...]
  name=$1; printf '%s' "$2" > /tmp/item.json; command=$3; shift 3
  $oem item publish --rootfs $root --arch amd64 --codename "$name" --version 1.0.0 --cmd "$command" --config /tmp/item.json "$@" >/dev/null 2>&1
  $oem assign "$unit" "$name" >/dev/null
}
publish back '{"hostname": "back", "quotas": {"ramLimit": 33554432, "pidsLimit": 16, "cpuDMIPSLimit": 2000}}' \
  "/bin/busybox httpd -f -p 8080 -h /www" --expose 8080/tcp
publish front '{"hostname": "front", "quotas": {"ramLimit": 33554432}}' "/bin/busybox sh /bin/front"
publish filler '{"quotas": {"storageLimit": 1048576, "ramLimit": 33554432}}' "/bin/busybox sh /bin/filler"
publish hog '{"quotas": {"ramLimit": 16777216}, "runParameters": {"startBurst": 1, "startInterval": "1h"}}' "/bin/busybox sh /bin/hog"
for name in back front filler; do
  until_true "$name to be active" sh -c "$oem unit status $unit | grep -E '^$name:0 +1.0.0 +[^ ]+ +active'"
done
until_true "the memory hog's end with its reason" sh -c "$oem unit status $unit | grep -E '^hog:0 .* failed .*(137|memory)'"
say "names and the way outside"
until_true "a page by name" has "by name" aosctl --profile oem logs "$unit" front
until_true "a page from outside" has "to the outside" aosctl --profile oem logs "$unit" front

say "limits in cgroup v2"
pid=$(find_pid '[h]ttpd -f -p 8080')
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$pid/cgroup)
for pair in memory.max=33554432 pids.max=16; do
  expect "${pair#*=}" cat "$group/${pair%%=*}"
done
[ "$(cut -d' ' -f1 "$group/cpu.max")" != max ] || fail "no limit of processor time"
[ "$(readlink /proc/$pid/ns/user)" != "$(readlink /proc/1/ns/user)" ] || fail "no user namespace"

say "user quota of the file system"
full() { # the file has all that the quota allows, and no more
  size=$(find /var/aos/storages -name file -type f -size +500k -printf '%s')
  [ -n "$size" ] && [ "$size" -le 1048576 ]
}
until_true "the storage to be full" full

say "firewall: from outside only what is exposed"
back=$(nsenter -t "$pid" -n ip -4 -o addr show eth0 | awk '{sub("/.*", "", $4); print $4}')
front=$(nsenter -t "$(find_pid '[b]usybox sh /bin/front')" -n ip -4 -o addr show eth0 | awk '{sub("/.*", "", $4); print $4}')
outside() { # ADDRESS PORT: the page as the neighbour gets it
  printf 'GET / HTTP/1.0\r\n\r\n' | ip netns exec outside timeout 5 busybox nc "$1" "$2" | grep hello
}
expect "hello from back" outside "$back" 8080
refuse "a port that is not exposed answers outside" outside "$front" 8081
expect "instance_" nft list table inet aos

say "VLAN of the owner's network"
expect "vlan protocol 802.1Q" ip -d link show type vlan
expect "master br-" ip -d link show type vlan

say "restarts of the units leave the services alone"
for what in aos-sm aos-cm aos.target; do
  systemctl restart $what
  until_true "the units after $what" systemctl is-active -q aos-iam aos-cm aos-sm
  [ "$(find_pid '[h]ttpd -f -p 8080')" = "$pid" ] || fail "the service is another one after $what"
  expect "hello from back" outside "$back" 8080
done
say "all well"
