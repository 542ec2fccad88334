//! When to give back: some time after the start, and some time after work that has touched much.
//!
//! Nothing is watched while a program is idle: each time the main thread is about to sleep it compares one number
//! of the kernel, the page faults of the process so far.

use std::io;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

/// Time after which a start has come to an end, or a piece of work, in any ordinary case.
const PAUSE: Duration = Duration::from_secs(20);
/// So many page faults are work. What an idle daemon does every second needs a third of them to come back into
/// memory.
const WORK: isize = 512;
/// Stands for "asked for, not given back yet".
const SOON: isize = isize::MAX;

/// Page faults of the process when it was last given back.
static AT_REST: AtomicIsize = AtomicIsize::new(SOON);

/// Gives memory back once the program has started, and from then on whenever [`before_sleep`](crate::before_sleep)
/// finds that much has been touched again. For daemons; call it once.
///
/// # Errors
/// There is no room for a thread.
pub fn settle() -> io::Result<()> {
    give_back_after(PAUSE)
}

/// Has memory given back soon if much of it was touched since it was last.
pub fn look(faults: isize) {
    if is_work(faults) && AT_REST.swap(SOON, Ordering::Relaxed) != SOON {
        // One that cannot be started now is started later, when there is more room.
        if give_back_after(PAUSE).is_err() {
            AT_REST.store(faults, Ordering::Relaxed);
        }
    }
}

fn is_work(faults: isize) -> bool {
    faults.saturating_sub(AT_REST.load(Ordering::Relaxed)) > WORK
}

fn give_back_after(pause: Duration) -> io::Result<()> {
    let wait = move || {
        // Nothing waits for this; being late or early costs some page faults and nothing else.
        std::thread::park_timeout(pause);
        crate::give_back();
        AT_REST.store(faults(), Ordering::Relaxed);
    };
    std::thread::Builder::new().name("settle".to_owned()).stack_size(64 * 1024).spawn(wait).map(drop)
}

/// Page faults of this process so far that needed no disk.
pub fn faults() -> isize {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage writes the whole structure, which is plain numbers and valid when zero.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    isize::try_from(usage.ru_minflt).unwrap_or(isize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_much_is_work_and_asks_once() {
        let begin = faults();
        assert!(!is_work(begin), "not while the first time is still to come");
        AT_REST.store(begin, Ordering::Relaxed);
        assert!(!is_work(begin + WORK));
        for _ in 0..8 {
            let thread =
                std::thread::Builder::new().stack_size(1 << 20).spawn(|| crate::stack::tests::deep(200));
            thread.unwrap().join().unwrap();
        }
        let now = faults();
        assert!(is_work(now), "{begin}, {now}");
        look(now);
        assert_eq!(AT_REST.load(Ordering::Relaxed), SOON, "asked for");
        assert!(!is_work(now + WORK * 2), "and not a second time");
    }
}
