//! The stack of the main thread: the deep calls of a start leave pages behind that nobody uses again.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

static WANTED: AtomicBool = AtomicBool::new(false);

/// Below a function's own frame, left to the calls that give the rest away, bytes.
const SPARED: usize = 16 * 1024;

/// Asks the main thread to give back its stack when it next goes to sleep.
pub fn want_release() {
    WANTED.store(true, Ordering::Relaxed);
}

/// Gives back the stack of the main thread if that is asked for; on other threads it does nothing.
pub fn release_if_wanted() {
    if WANTED.load(Ordering::Relaxed) && is_main_thread() {
        WANTED.store(false, Ordering::Relaxed);
        release();
    }
}

fn is_main_thread() -> bool {
    // SAFETY: both only answer.
    unsafe { libc::gettid() == libc::getpid() }
}

/// Gives back the stack of the main thread below the caller.
#[inline(never)]
fn release() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let stack = maps.lines().find_map(|line| range(line.strip_suffix("[stack]")?));
    if let Some(stack) = stack {
        // SAFETY: we are on the main thread, and this is its stack.
        unsafe { release_from(stack.start) };
    }
}

/// Gives back the stack from `start` to a little below this function's frame.
///
/// # Safety
/// `start` is where the mapping of the calling thread's stack begins.
#[inline(never)]
unsafe fn release_from(start: usize) {
    let mark = 0_u8;
    let here = (&raw const mark).addr();
    let length = here.saturating_sub(start).saturating_sub(SPARED);
    let length = length - length % crate::page_size();
    // SAFETY: stacks grow downwards: below the frame of this function and of what it calls, nothing is alive.
    unsafe {
        libc::madvise(std::ptr::without_provenance_mut::<c_void>(start), length, libc::MADV_DONTNEED);
    }
}

/// The addresses at the beginning of a line of `/proc/self/maps`.
fn range(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mapping around an address and how much of it is in memory, kilobytes.
    fn around(address: usize) -> (Range<usize>, u64) {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines();
        let found = lines.by_ref().filter_map(range).find(|range| range.contains(&address)).unwrap();
        let resident = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        (found, resident.trim().trim_end_matches(" kB").parse().unwrap())
    }

    #[inline(never)]
    fn deep(calls: u32) -> u64 {
        let mut room = [u64::from(calls); 512];
        std::hint::black_box(&mut room);
        if calls == 0 { 0 } else { deep(calls - 1) + room[7] }
    }

    #[test]
    fn what_deep_calls_left_on_a_stack_is_given_back_and_the_thread_goes_on() {
        let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(|| {
            let mark = 0_u8;
            let here = (&raw const mark).addr();
            let sum = deep(100);
            let (stack, before) = around(here);
            // SAFETY: the mapping around a variable of this thread is its stack.
            unsafe { release_from(stack.start) };
            let (_, after) = around(here);
            assert!(before >= 400 && after < before / 4, "{before} kB before, {after} kB after");
            assert_eq!(deep(100), sum);
        });
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn other_threads_keep_their_stacks_and_the_wish_stays() {
        want_release();
        release_if_wanted();
        assert!(is_main_thread() || WANTED.load(Ordering::Relaxed));
    }
}
