//! Gives memory that only the start needed back to the system.
//!
//! A daemon uses most of its code once: reading configuration, opening stores, first handshakes. What it touched
//! then stays mapped and counts as its memory for ever after, although an idle daemon runs a small part of it.
//! Unmapping such pages costs a page fault each if they are needed again, and no disk access while they are in
//! the page cache. The allocator keeps freed memory likewise until it is told to return it.
//!
//! glibc only; elsewhere the functions do nothing.

/// Keeps the allocator to one arena and makes it return large free blocks at once.
///
/// Call it before other threads start: arenas that exist stay. Our daemons allocate on one thread, so further
/// arenas would only hold memory that the first one lacks.
pub fn frugal_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and is callable at any time; it reports bad values by its result.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 * 1024);
    }
}

/// Returns free heap pages and unmaps the program text that the start has touched.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim only releases memory that nobody has allocated.
        unsafe {
            libc::malloc_trim(0);
        }
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        for (start, length) in maps.lines().filter_map(text_of_file) {
            // SAFETY: the range is an executable, unwritable mapping of a file, taken from the kernel's own list.
            // Such pages are never modified, so that dropping them only means reading them from the file again.
            // A mapping that has gone meanwhile makes the call fail, which is harmless.
            unsafe {
                libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
            }
        }
    }
}

/// Range of a line of `/proc/self/maps` when it is program text of a file.
#[cfg(target_env = "gnu")]
fn text_of_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let file = fields.nth(3)?;
    if permissions != "r-xp" || !file.starts_with('/') {
        return None;
    }
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn only_unwritable_text_of_files_is_given_back() {
        let text = "55d0-55f0 r-xp 00001000 08:01 42                 /usr/bin/aos";
        assert_eq!(text_of_file(text), Some((0x55d0, 0x20)));
        for other in [
            "55d0-55f0 rw-p 00001000 08:01 42 /usr/bin/aos",
            "55d0-55f0 r--p 00001000 08:01 42 /usr/bin/aos",
            "55d0-55f0 r-xp 00000000 00:00 0 [vdso]",
            "55d0-55f0 r-xp 00000000 00:00 0",
            "nonsense",
        ] {
            assert_eq!(text_of_file(other), None, "{other}");
        }
    }

    #[test]
    fn the_program_runs_on_with_less_memory() {
        fn resident_text() -> u64 {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut counted = false;
            let mut sum = 0;
            for line in smaps.lines() {
                if let Some(kilobytes) = line.strip_prefix("Rss:") {
                    let number = kilobytes.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
                    sum += if counted { number } else { 0 };
                } else if line.contains('-') && !line.contains(':') || line.contains(" r") {
                    counted = text_of_file(line).is_some();
                }
            }
            sum
        }
        frugal_allocator();
        let before = resident_text();
        give_back();
        let after = resident_text();
        assert!(after < before, "{before} kB of text before, {after} kB after");
    }
}
