//! The store inside a Python process: the one that the server has, without a server.
//!
//! No lock of the store is held while Python runs, so nothing that Python does meanwhile can wait for it. Copying a long
//! value, and all that visits many items, is done without the interpreter's lock; a fork waits for that (`forks.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::forks::detached;
use globalcache_core::limits::Limits;
use globalcache_core::store::{Key, Meta, Options, Refused, Store as Inner, Value, shards_for};
use globalcache_server::{MIN_MEMORY, read_clocks};
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

/// Bytes from which copying takes longer than giving the interpreter away and getting it back.
const LONG: usize = 32 << 10;
/// Milliseconds from one step of upkeep to the next; calls that write make them.
const UPKEEP: u64 = 50;
const LONGEST_KEY: usize = 65_535;

/// A value on its way to Python.
enum Copied {
    Bytes(Vec<u8>),
    Shared(Arc<[u8]>),
}

/// A cache of this process alone.
#[pyclass(frozen)]
pub(crate) struct Store {
    inner: Inner,
    /// When the next step of upkeep is due.
    due: AtomicU64,
}

/// The bytes of a key, borrowed from its Python object.
fn bytes_of<'a>(key: &'a Bound<'_, PyAny>) -> PyResult<std::borrow::Cow<'a, [u8]>> {
    let bytes = if let Ok(bytes) = key.cast::<PyBytes>() {
        std::borrow::Cow::Borrowed(bytes.as_bytes())
    } else if let Ok(text) = key.cast::<PyString>() {
        std::borrow::Cow::Owned(text.to_cow()?.as_bytes().to_vec())
    } else {
        return Err(PyTypeError::new_err(format!("a key is str or bytes, not {}", key.get_type().name()?)));
    };
    if bytes.is_empty() || bytes.len() > LONGEST_KEY {
        return Err(PyValueError::new_err(format!("a key has 1 to {LONGEST_KEY} bytes, not {}", bytes.len())));
    }
    Ok(bytes)
}

fn key(bytes: &[u8]) -> Key<'_> {
    Key { db: 0, bytes }
}

impl Store {
    /// The time; what is due of the upkeep is done.
    fn step(&self, py: Python<'_>) -> u64 {
        let now = read_clocks().mono;
        let due = self.due.load(Relaxed);
        if now >= due && self.due.compare_exchange(due, now + UPKEEP, Relaxed, Relaxed).is_ok() {
            detached(py, || self.inner.tick(now));
        }
        now
    }
}

#[pymethods]
impl Store {
    #[new]
    #[pyo3(signature = (*, memory, evict, max_value))]
    fn new(py: Python<'_>, memory: u64, evict: bool, max_value: usize) -> PyResult<Store> {
        if memory < MIN_MEMORY {
            return Err(PyValueError::new_err(format!("memory: at least {MIN_MEMORY} bytes are needed")));
        }
        if max_value as u64 > memory / 2 {
            return Err(PyValueError::new_err("max_value: at most half of the memory"));
        }
        let options = Options {
            memory,
            shards: shards_for(memory, max_value, 1),
            evict,
            max_value,
            load_limit: Limits::default().load_limit,
            seed: globalcache_server::random_seed(),
            epoch: globalcache_server::epoch(read_clocks().wall),
        };
        Ok(Store { inner: py.detach(|| Inner::new(options)), due: AtomicU64::new(0) })
    }

    #[pyo3(signature = (name, /))]
    fn get<'py>(&self, py: Python<'py>, name: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let name = bytes_of(name)?;
        let copied = self.inner.with(key(&name), read_clocks().mono, |entry| {
            entry.get().map(|item| match item.value {
                Value::Inline(bytes) => Copied::Bytes(bytes.to_vec()),
                Value::Shared(bytes) => Copied::Shared(bytes.clone()),
            })
        });
        Ok(copied.map(|copied| match copied {
            Copied::Bytes(bytes) => PyBytes::new(py, &bytes),
            Copied::Shared(bytes) => PyBytes::new(py, &bytes),
        }))
    }

    #[pyo3(signature = (name, value, ttl_ms, /))]
    fn set(&self, py: Python<'_>, name: &Bound<'_, PyAny>, value: &[u8], ttl_ms: Option<u64>) -> PyResult<()> {
        let name = bytes_of(name)?;
        let now = self.step(py);
        let write = || {
            self.inner.with(key(&name), now, |entry| {
                let expires_at = ttl_ms.map(|ttl| entry.now().saturating_add(ttl));
                entry.set(value, &Meta { expires_at, ..Meta::default() })
            })
        };
        let written = if value.len() < LONG { write() } else { detached(py, write) };
        written.map(|_| ()).map_err(|refused| match refused {
            Refused::TooLarge => {
                let limit = self.inner.options().max_value;
                PyValueError::new_err(format!("the value has {} bytes, more than {limit}", value.len()))
            }
            Refused::Full => PyMemoryError::new_err("memory is full and nothing may be evicted"),
        })
    }

    #[pyo3(signature = (name, /))]
    fn delete(&self, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<bool> {
        let name = bytes_of(name)?;
        let now = self.step(py);
        Ok(self.inner.with(key(&name), now, |entry| entry.remove()))
    }

    fn clear(&self, py: Python<'_>) {
        detached(py, || {
            self.inner.clear(None, read_clocks().mono);
            self.inner.shed(usize::MAX);
        });
    }

    fn __contains__(&self, name: &Bound<'_, PyAny>) -> PyResult<bool> {
        let name = bytes_of(name)?;
        Ok(self.inner.with(key(&name), read_clocks().mono, |entry| entry.peek().is_some()))
    }

    fn __len__(&self) -> usize {
        self.inner.len(0) as usize
    }

    fn stats(&self) -> BTreeMap<&'static str, u64> {
        let stats = self.inner.stats();
        BTreeMap::from([
            ("items", stats.items),
            ("used", stats.used),
            ("memory", self.inner.options().memory),
            ("hits", stats.hits),
            ("misses", stats.misses),
            ("evicted", stats.evicted),
            ("expired", stats.expired),
        ])
    }
}
