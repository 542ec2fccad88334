//! Reads the kernel's text about processors.
//!
//! x86 gives socket, cores and threads; ARM gives only one entry a processor, which then are counted.

use std::collections::BTreeMap;

use super::Cpu;

const MAX_SOCKETS: usize = 8;
/// Bytes of a model name that peers accept.
const MAX_NAME: usize = 64;

#[derive(Default)]
struct Socket {
    model_name: String,
    cores: Option<u64>,
    threads: Option<u64>,
    processors: u64,
}

/// The processors in `text`, one a socket; one with one core and one thread when it says nothing.
pub(super) fn parse(text: &str, architecture: &str) -> Vec<Cpu> {
    let mut sockets: BTreeMap<u64, Socket> = BTreeMap::new();
    for entry in entries(text) {
        let number = |key: &str| entry.get(key).map(|value| value.parse::<u64>());
        let Ok(id) = number("physical id").unwrap_or(Ok(0)) else { return vec![default_cpu(architecture)] };
        let (Ok(cores), Ok(threads)) = (number("cpu cores").transpose(), number("siblings").transpose())
        else {
            return vec![default_cpu(architecture)];
        };
        if !sockets.contains_key(&id) && sockets.len() == MAX_SOCKETS {
            continue;
        }
        let socket = sockets.entry(id).or_default();
        socket.processors += 1;
        if socket.processors == 1 {
            socket.model_name = entry.get("model name").map(|name| shortened(name)).unwrap_or_default();
            socket.cores = cores;
            socket.threads = threads;
        }
    }
    if sockets.is_empty() {
        return vec![default_cpu(architecture)];
    }
    let board = board(text);
    sockets
        .into_values()
        .map(|socket| Cpu {
            model_name: if socket.model_name.is_empty() { board.clone() } else { socket.model_name },
            cores: socket.cores.unwrap_or(socket.processors),
            threads: socket.threads.unwrap_or(socket.processors),
            ..default_cpu(architecture)
        })
        .collect()
}

/// What the end of an ARM file says about the machine, for processors without a name.
fn board(text: &str) -> String {
    let value = |key: &str| {
        let line =
            text.lines().rev().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key));
        line.and_then(|line| Some(shortened(line.split_once(':')?.1.trim())))
    };
    value("Model").or_else(|| value("Hardware")).unwrap_or_default()
}

/// As much of a name as peers accept.
fn shortened(name: &str) -> String {
    let mut end = name.len().min(MAX_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

fn default_cpu(architecture: &str) -> Cpu {
    Cpu {
        model_name: String::new(),
        cores: 1,
        threads: 1,
        architecture: architecture.to_owned(),
        variant: None,
        max_dmips: None,
    }
}

/// The blocks of `key : value` lines that describe a processor. What comes without one of the known
/// keys (the board at the end of ARM files) is left out.
fn entries(text: &str) -> Vec<BTreeMap<&str, &str>> {
    const KNOWN: [&str; 5] = ["processor", "physical id", "model name", "cpu cores", "siblings"];
    let mut found = Vec::new();
    let mut entry = BTreeMap::new();
    let mut close = |entry: &mut BTreeMap<_, _>| {
        let entry = std::mem::take(entry);
        if !entry.is_empty() {
            found.push(entry);
        }
    };
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            if line.trim().is_empty() {
                close(&mut entry);
            }
            continue;
        };
        let key = key.trim();
        if key == "processor" {
            close(&mut entry);
        }
        if KNOWN.contains(&key) {
            entry.insert(key, value.trim());
        }
    }
    close(&mut entry);
    found
}

/// The OCI name of a machine as the kernel calls it.
pub(super) fn oci_architecture(machine: &str) -> &str {
    match machine {
        "x86_64" | "amd64" => "amd64",
        "aarch64" | "arm64" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "386",
        "armv6l" | "armv7l" | "armv8l" => "arm",
        other => other,
    }
}
