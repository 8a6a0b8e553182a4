//! Threads that work on a store without the interpreter's lock, and processes that fork meanwhile.
//!
//! A child has the memory of its parent and only the thread that forked. A lock that another thread held at that moment
//! stays locked in the child for ever. Whoever holds the interpreter's lock keeps others from forking; whoever works without
//! it is waited for before a fork, and begins after it. Nothing here waits in a queue, which the child would have a copy of.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use pyo3::prelude::*;

/// How long it takes until whoever waits looks again: most work takes less.
const PAUSE: Duration = Duration::from_micros(50);

/// Threads that work.
static WORKING: AtomicUsize = AtomicUsize::new(0);
/// Threads that are about to fork.
static FORKING: AtomicUsize = AtomicUsize::new(0);

/// A thread that works; no process forks until this is dropped.
struct Work;

impl Work {
    fn begin() -> Work {
        loop {
            WORKING.fetch_add(1, SeqCst);
            if FORKING.load(SeqCst) == 0 {
                return Work;
            }
            WORKING.fetch_sub(1, SeqCst);
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        WORKING.fetch_sub(1, SeqCst);
    }
}

/// Runs `step`, which may lock a store, without the interpreter's lock.
pub(crate) fn detached<R: Send>(py: Python<'_>, step: impl FnOnce() -> R + Send) -> R {
    py.detach(|| {
        let _work = Work::begin();
        step()
    })
}

#[pyfunction]
fn before_fork(py: Python<'_>) {
    FORKING.fetch_add(1, SeqCst);
    py.detach(|| {
        while WORKING.load(SeqCst) > 0 {
            std::thread::sleep(PAUSE);
        }
    });
}

#[pyfunction]
fn after_fork_in_parent() {
    FORKING.fetch_sub(1, SeqCst);
}

#[pyfunction]
fn after_fork_in_child() {
    // Others were about to work, or to fork, in the parent.
    WORKING.store(0, SeqCst);
    FORKING.store(0, SeqCst);
}

/// Has every fork of this process wait for those who work.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let calls = pyo3::types::PyDict::new(py);
    calls.set_item("before", wrap_pyfunction!(before_fork, module)?)?;
    calls.set_item("after_in_parent", wrap_pyfunction!(after_fork_in_parent, module)?)?;
    calls.set_item("after_in_child", wrap_pyfunction!(after_fork_in_child, module)?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&calls))?;
    Ok(())
}
