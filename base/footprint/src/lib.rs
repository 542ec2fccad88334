//! Gives memory that only the start needed back to the system.
//!
//! A daemon uses most of its code once: reading configuration, opening stores, first handshakes. What it touched
//! then stays mapped and counts as its memory for ever after, although an idle daemon runs a small part of it.
//! Unmapping such pages costs a page fault each if they are needed again, and no disk access while they are in
//! the page cache. The allocator keeps freed memory likewise until it is told to return it.
//!
//! Allocator and segments: with glibc only; elsewhere the functions do nothing about them.

#[cfg(target_env = "gnu")]
mod segments;
mod stack;

/// Time after which a daemon has started, connected and taken up what runs.
const STARTED: std::time::Duration = std::time::Duration::from_secs(20);

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

/// Returns free heap pages and unmaps the code and constants that the start has touched; the stack of the main
/// thread follows with its next [`before_sleep`].
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim only releases memory that nobody has allocated.
        unsafe {
            libc::malloc_trim(0);
        }
        segments::unmap_pages();
    }
    stack::want_release();
}

/// Call it on the main thread where it is about to wait, at the bottom of its calls (for tokio: `on_thread_park`):
/// after a [`give_back`], what earlier calls have used of that thread's stack follows. Otherwise it does nothing.
pub fn before_sleep() {
    stack::release_if_wanted();
}

/// Gives memory back once, when the start of a program has come to an end in any ordinary case.
///
/// # Errors
/// There is no room for a thread.
pub fn settle() -> std::io::Result<()> {
    let wait = || {
        // Nothing waits for this; being late or early costs some page faults and nothing else.
        std::thread::park_timeout(STARTED);
        give_back();
    };
    std::thread::Builder::new().name("settle".to_owned()).stack_size(64 * 1024).spawn(wait).map(drop)
}

fn page_size() -> usize {
    // SAFETY: sysconf only answers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    /// Kilobytes of code and of constants of files that are mapped now.
    fn resident() -> (u64, u64) {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut code, mut constants, mut kind) = (0, 0, String::new());
        for line in smaps.lines() {
            let mut fields = line.split_ascii_whitespace();
            let name = fields.next().unwrap();
            match name {
                "Rss:" => {
                    let number = fields.next().unwrap().parse::<u64>().unwrap();
                    code += if kind == "r-xp" { number } else { 0 };
                    constants += if kind == "r--p" { number } else { 0 };
                }
                _ if name.ends_with(':') => {}
                _ => {
                    let file = fields.clone().nth(4).is_some_and(|file| file.starts_with('/'));
                    kind = if file { fields.next().unwrap().to_owned() } else { String::new() };
                }
            }
        }
        (code, constants)
    }

    #[test]
    fn the_program_runs_on_with_less_memory() {
        // Looked up by name, and formatted: relocations and constants are used before and after.
        let text = || {
            format!("{:?} {:e} {}", std::net::Ipv6Addr::LOCALHOST, 12.5_f64, "x".parse::<u8>().unwrap_err())
        };
        frugal_allocator();
        let before = (text(), resident());
        give_back();
        let after = resident();
        assert!(after.0 < before.1.0 && after.1 < before.1.1, "{before:?}, {after:?} kB after");
        assert_eq!(text(), before.0);
        // Code that nobody has called yet, of a library's as well.
        assert_eq!("host.invalid:1".parse::<std::net::SocketAddr>().ok(), None);
        std::thread::spawn(|| 7).join().unwrap();
    }
}
