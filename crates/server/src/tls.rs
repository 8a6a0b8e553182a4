//! Certificates and keys from files, as rustls wants them: TLS 1.2 and 1.3, and client certificates where an authority
//! for them is named.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::StartError;

/// The files of a server that speaks TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, and those between it and the authority, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// Authorities, in PEM, one of which must have signed the certificate that every client shows; none: clients show none.
    pub client_ca: Option<PathBuf>,
}

fn wrong(option: &str, path: &Path, why: impl Display) -> StartError {
    StartError::Option(format!("{option}: {}: {why}", path.display()))
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| wrong(option, path, error))?;
    if found.is_empty() { Err(wrong(option, path, "there is no certificate in it")) } else { Ok(found) }
}

/// Reads the files; what is wrong with which of them otherwise.
pub(crate) fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, StartError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates("tls_cert", &files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong("tls_key", &files.key, error))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| wrong("tls_cert", &files.cert, error))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates("tls_client_ca", path)? {
                roots.add(authority).map_err(|error| wrong("tls_client_ca", path, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong("tls_client_ca", path, error))?)
        }
    };
    let config = builder.with_single_cert(chain, key).map_err(|error| wrong("tls_key", &files.key, error))?;
    Ok(Arc::new(config))
}
