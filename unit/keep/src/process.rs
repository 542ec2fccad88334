//! Identity of processes: a process ID alone may be reused, together with the start time it is unique
//! for this boot.

use std::fs;

/// Start time of a process in clock ticks since boot, `None` when there is no such process.
pub fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// True when the process runs and is not a zombie.
pub fn is_running(pid: i32, expected_start: u64) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    parse_start_time(&stat) == Some(expected_start) && !matches!(state(&stat), Some('Z' | 'X'))
}

/// The fields after the command name, which may itself hold spaces and brackets.
fn fields(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    Some(stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace())
}

fn state(stat: &str) -> Option<char> {
    fields(stat)?.next()?.chars().next()
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // Field 22 of proc(5); the first field after the name is number 3.
    fields(stat)?.nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_do_not_confuse() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0";
        assert_eq!(parse_start_time(stat), Some(4711));
        assert_eq!(state(stat), Some('S'));
    }

    #[test]
    fn this_process_runs() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let start = start_time(pid).unwrap();
        assert!(is_running(pid, start));
        assert!(!is_running(pid, start + 1));
    }
}
