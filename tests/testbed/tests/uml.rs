//! Machines with another kernel: what they offer to tests, how they end, and that nothing is left of them.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use aos_testbed::Error;
use aos_testbed::uml::{self, Options, Outcome};

fn sh(script: &str) -> Outcome {
    uml::run(&["/bin/sh", "-c", script], &Options::default()).unwrap()
}

#[test]
fn a_machine_has_what_this_one_lacks() {
    // Controllers of cgroup v2, overlayfs, VLANs and user quota.
    let outcome = sh("set -e
        for one in cpu memory pids; do grep -qw $one /sys/fs/cgroup/cgroup.subtree_control; done
        mkdir -p /tmp/l /tmp/u /tmp/w /tmp/m
        mount -t overlay o -o lowerdir=/tmp/l,upperdir=/tmp/u,workdir=/tmp/w /tmp/m
        ip link add v0 type veth peer name v1
        ip link add link v0 name v0.7 type vlan id 7
        ip -d link show v0.7 | grep -o 'vlan protocol 802.1Q id 7'
        truncate -s 32M /tmp/disk
        mkfs.ext4 -q -F -O quota -E quotatype=usrquota /tmp/disk
        mkdir /tmp/q; mount -o loop,usrquota /tmp/disk /tmp/q
        quotaon -p /tmp/q | grep 'user quota' || true
        touch /etc/changed 2>/dev/null || echo the root cannot be changed
        ls -A /var/tmp/aos-testbed | wc -l");
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    for line in ["vlan protocol 802.1Q id 7", "(/dev/loop0) is on", "the root cannot be changed"] {
        assert!(outcome.output.contains(line), "'{line}' is not in:\n{}", outcome.output);
    }
}

#[test]
fn the_end_of_the_program_is_told() {
    let options =
        Options { env: vec![("COLOUR".to_owned(), "red".to_owned())], memory: 256, ..Options::default() };
    let outcome = uml::run(&["/bin/sh", "-c", "echo $COLOUR; echo bad >&2; exit 7"], &options).unwrap();
    assert_eq!(outcome, Outcome { status: 7, output: "red\nbad\n".to_owned() });
    assert_eq!(sh("kill -9 $$").status, 137);
}

#[test]
fn a_machine_that_takes_too_long_is_switched_off() {
    let options = Options { limit: Duration::from_secs(5), ..Options::default() };
    let error = uml::run(&["/bin/sh", "-c", "echo begun; sleep 1000"], &options).unwrap_err();
    assert!(matches!(&error, Error::Timeout { last, .. } if last.contains("begun")), "{error}");
}
