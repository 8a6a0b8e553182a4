//! The native module `globalcache._core`: the server, its engine without sockets, the store alone and the load generator
//! for Python.
//!
//! The only crate that knows Python. No request ever waits for the interpreter: the server's threads are native.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use globalcache_server::{Admission, Options, StartError, TlsFiles};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

mod forks;
mod local;
mod store;

/// What the native module allocates; Python's own memory is not touched by it.
#[global_allocator]
static ALLOCATOR: globalcache_server::page_allocator::Pages = globalcache_server::page_allocator::Pages;

/// A running server within this process.
#[pyclass(frozen)]
struct Server {
    inner: globalcache_server::Server,
    pid: u32,
}

fn start_error(error: StartError) -> PyErr {
    match error {
        StartError::Option(text) => PyValueError::new_err(text),
        StartError::Bind(address, error) => {
            PyOSError::new_err((error.raw_os_error(), format!("{address}: {}", reason(&error))))
        }
        StartError::System(error) => PyOSError::new_err((error.raw_os_error(), reason(&error))),
    }
}

/// What went wrong, without the number that Rust adds.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (*, listen, threads, memory, evict, max_value, max_clients, client_memory, idle_timeout_ms, insecure,
        passwords = Vec::new(), users = String::new(), tls = None, loaders = Vec::new(), load_limit_ms = 30_000, shutdown = false, debug_time = false))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        listen: Vec<String>,
        threads: usize,
        memory: u64,
        evict: bool,
        max_value: usize,
        max_clients: u64,
        client_memory: u64,
        idle_timeout_ms: u64,
        insecure: bool,
        passwords: Vec<String>,
        users: String,
        tls: Option<(PathBuf, PathBuf, Option<PathBuf>)>,
        loaders: Vec<String>,
        load_limit_ms: u64,
        shutdown: bool,
        debug_time: bool,
    ) -> PyResult<Server> {
        let options = Options {
            listen,
            threads,
            memory,
            evict,
            max_value,
            max_clients,
            client_memory,
            idle_timeout: Duration::from_millis(idle_timeout_ms),
            admission: Admission {
                insecure,
                passwords,
                users,
                tls: tls.map(|(cert, key, client_ca)| TlsFiles { cert, key, client_ca }),
            },
            loaders,
            load_limit: Duration::from_millis(load_limit_ms),
            shutdown,
            debug_time,
        };
        let inner = py.detach(|| globalcache_server::Server::start(options)).map_err(start_error)?;
        inner.on_failure(log_failure);
        Ok(Server { inner, pid: std::process::id() })
    }

    /// The addresses it listens on.
    #[getter]
    fn addresses(&self) -> PyResult<Vec<String>> {
        self.own()?;
        Ok(self.inner.addresses().to_vec())
    }

    /// Whether it was told to stop, also by a client where that is allowed.
    #[getter]
    fn stopping(&self) -> PyResult<bool> {
        self.own()?;
        Ok(self.inner.is_stopping())
    }

    /// Counts since the start, and what is held now.
    fn stats(&self, py: Python<'_>) -> PyResult<std::collections::BTreeMap<&'static str, u64>> {
        self.own()?;
        // It waits for the locks of the shards.
        Ok(py.detach(|| self.inner.stats()).into_iter().collect())
    }

    /// Reads the files of TLS again.
    fn reload(&self, py: Python<'_>, passwords: Vec<String>, users: &str) -> PyResult<()> {
        self.own()?;
        py.detach(|| self.inner.reload(&passwords, users)).map_err(start_error)
    }

    /// Stops it: in-flight replies are sent, within five seconds.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.own_process()?;
        py.detach(|| self.inner.stop());
        self.own()
    }
}

impl Server {
    /// Whether it may be used: not in a forked child, and not after one of its threads panicked.
    fn own(&self) -> PyResult<()> {
        self.own_process()?;
        self.inner.failure().map_or(Ok(()), |cause| Err(PyRuntimeError::new_err(failed(cause))))
    }

    /// The threads of a server do not live on in a forked child.
    fn own_process(&self) -> PyResult<()> {
        if std::process::id() == self.pid {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(
            "this server belongs to the process that started it; start one of your own after fork()",
        ))
    }
}

fn failed(cause: &str) -> String {
    format!("the server has closed its listeners and connections: {cause}")
}

/// Writes to the log of Python that a server has failed. In a thread that nobody waits for: it has to wait for the
/// interpreter, whose holder may at this moment wait for the threads of the server.
fn log_failure(cause: &str) {
    let text = failed(cause);
    let log = move || {
        Python::try_attach(|py| {
            let logger = py.import("logging")?.call_method1("getLogger", ("globalcache",))?;
            logger.call_method1("critical", ("%s", text)).map(drop)
        })
    };
    // Without a thread, or while the interpreter ends, the message of the panic on stderr has to do.
    let _ = std::thread::Builder::new().spawn(log);
}

/// The exit status of a process that ends by a fault of its own: EX_SOFTWARE of sysexits.h.
const EX_SOFTWARE: i32 = 70;

/// From now on a panic of any thread ends the process, after its message.
#[pyfunction]
fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        eprintln!("globalcache: this is a fault of the server, which ends now with status {EX_SOFTWARE}");
        std::process::exit(EX_SOFTWARE);
    }));
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            // Its threads are in the parent: there is nothing here to stop or to wait for.
            self.inner.disown();
        }
        // Its clients may be threads of this interpreter, and stopping waits for what they read. Without an interpreter
        // there is nobody to wait for it.
        Python::try_attach(|py| py.detach(|| self.inner.stop()));
    }
}

/// Runs the load generator: options and report are JSON.
#[pyfunction]
#[pyo3(signature = (options, /))]
fn run_bench(py: Python<'_>, options: &str) -> PyResult<String> {
    let options = serde_json::from_str(options).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let report = py.detach(|| globalcache_loadgen::run(&options)).map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => PyValueError::new_err(error.to_string()),
        _ => PyOSError::new_err((error.raw_os_error(), reason(&error))),
    })?;
    serde_json::to_string(&report).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Server>()?;
    module.add_class::<local::LocalServer>()?;
    module.add_class::<store::Store>()?;
    forks::register(module)?;
    module.add_function(wrap_pyfunction!(run_bench, module)?)?;
    module.add_function(wrap_pyfunction!(exit_on_panic, module)?)?;
    Ok(())
}
