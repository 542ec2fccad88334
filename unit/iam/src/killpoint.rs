//! Steps at which a test may end the process as SIGKILL does: before and after each durable write, each call that
//! changes a token and each external program. Compiled in only with the feature `kill-points`; in a release a step is nothing.
//!
//! `AOS_IAM_STEPS` names a file that gets the name of each step, `AOS_IAM_DIE_AT` the number of the step (from 1)
//! at which to die.

#[cfg(not(feature = "kill-points"))]
mod armed {
    pub const fn arm() {}

    pub const fn step(_name: &'static str) {}
}

#[cfg(feature = "kill-points")]
mod armed {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};

    static COUNT: AtomicU64 = AtomicU64::new(0);

    pub fn arm() {
        aos_token::set_probe(step);
    }

    pub fn step(name: &'static str) {
        let number = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(path) = std::env::var_os("AOS_IAM_STEPS")
            && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path)
        {
            let _ = writeln!(file, "{name}");
        }
        let last = std::env::var("AOS_IAM_DIE_AT").ok().and_then(|text| text.parse::<u64>().ok());
        if last == Some(number) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }
}

pub use armed::{arm, step};
