//! Ctrl-C and SIGTERM for the programs that run a site: clear up, then end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Result, Tried};
use crate::site::Site;

/// Whether an interruption ends the program well (it was only waiting for it) or badly.
#[derive(Debug, Clone, Default)]
pub struct Done(Arc<AtomicBool>);

impl Done {
    /// From now on an interruption is the regular end.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Ends the site and the program at the first Ctrl-C or SIGTERM.
pub fn end_on_interrupt(site: &Arc<Site>) -> Result<Done> {
    let done = Done::default();
    let (site, for_thread) = (Arc::clone(site), done.clone());
    let what = || "cannot listen for Ctrl-C".to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().tried(what)?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt()).tried(what)?, signal(SignalKind::terminate()).tried(what)?)
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        eprintln!("\nclearing up");
        let ended = site.end();
        if let Err(error) = &ended {
            eprintln!("{}", crate::chain(error));
        }
        std::process::exit(if ended.is_ok() && for_thread.0.load(Ordering::SeqCst) { 0 } else { 130 });
    };
    std::thread::Builder::new().name("interrupt".to_owned()).spawn(wait).tried(what)?;
    Ok(done)
}
