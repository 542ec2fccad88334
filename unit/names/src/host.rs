//! The name servers of the host, from its `resolv.conf`. The file changes when the host changes networks, so
//! it is read again when somebody asks, at most once a second.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_secs(1);
const MAX_FILE: u64 = 16 * 1024;
const MAX_SERVERS: usize = 4;

/// The host's servers.
pub struct Host {
    file: PathBuf,
    read_at: Option<Instant>,
    servers: Vec<IpAddr>,
}

impl Host {
    /// The servers that `file` names.
    pub fn new(file: PathBuf) -> Self {
        Self { file, read_at: None, servers: Vec::new() }
    }

    /// The servers now; none when the file is not there.
    pub fn servers(&mut self, now: Instant) -> &[IpAddr] {
        if self.read_at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK) {
            self.read_at = Some(now);
            let mut text = String::new();
            let read = File::open(&self.file).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
            self.servers = if read.is_ok() { servers_in(&text) } else { Vec::new() };
        }
        &self.servers
    }
}

fn servers_in(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
    });
    lines.take(MAX_SERVERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_again_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 192.0.2.1 \nnameserver fe80::1%eth0\n\
                    nameserver\t2001:db8::1\nnameserver\noptions edns0\n";
        let mut host = Host::new(file.clone());
        let now = Instant::now();
        assert!(host.servers(now).is_empty());
        std::fs::write(&file, text).unwrap();
        assert!(host.servers(now).is_empty());
        let expected: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(host.servers(now + LOOK), expected);
        std::fs::write(&file, "nameserver 192.0.2.9\n".repeat(9)).unwrap();
        assert_eq!(host.servers(now + LOOK), expected);
        assert_eq!(host.servers(now + 2 * LOOK).len(), MAX_SERVERS);
    }
}
