//! The certificate of the client port: a configured one, or a self-signed one that is made on the
//! first start and kept, so that clients can pin it.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    },
};
use tracing::info;

use crate::config::Tls;

/// Folder of the self-signed certificate in the data directory.
pub const FOLDER: &str = "tls";

/// TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// From the operating system.
        source: io::Error,
    },
    /// A configured file cannot be read.
    #[error("`{key}` = {path}: {source}")]
    Configured {
        /// Configuration key.
        key: &'static str,
        /// As configured.
        path: PathBuf,
        /// From the operating system.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no {what} in PEM form ({reason}): check tls.certificate and tls.key")]
    Content {
        /// Which.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
        /// From the parser.
        reason: String,
    },
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("certificate {certificate} and key {key} cannot be used together: {reason}")]
    Mismatch {
        /// Certificate file.
        certificate: PathBuf,
        /// Key file.
        key: PathBuf,
        /// From the TLS library.
        reason: String,
    },
    /// Half of the self-signed pair is gone.
    #[error(
        "{certificate} is there and {key} is not: put the key back, or remove the certificate to have both made again"
    )]
    KeyLost {
        /// Certificate file.
        certificate: PathBuf,
        /// Key file.
        key: PathBuf,
    },
    /// A certificate could not be made.
    #[error("a self-signed certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// Loads the configured certificate, or the self-signed one of `data_dir`, which is made for
/// `hosts` when it is missing.
pub fn acceptor(tls: &Tls, data_dir: &Path, hosts: &[String]) -> Result<TlsAcceptor, TlsError> {
    let (certificate, key) = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            readable("tls.certificate", certificate)?;
            readable("tls.key", key)?;
            (certificate.clone(), key.clone())
        }
        _ => self_signed(&data_dir.join(FOLDER), hosts)?,
    };
    load(&certificate, &key)
}

/// A configured file that cannot be opened is refused by the name of its key.
fn readable(key: &'static str, path: &Path) -> Result<(), TlsError> {
    let opened = fs::File::open(path).map_err(|source| TlsError::Configured {
        key,
        path: path.to_owned(),
        source,
    });
    opened.map(drop)
}

fn load(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let content = |path: &Path, what, error: pem::Error| match error {
        pem::Error::Io(source) => TlsError::File {
            path: path.to_owned(),
            source,
        },
        other => TlsError::Content {
            path: path.to_owned(),
            what,
            reason: other.to_string(),
        },
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| content(certificate, "certificate", error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| content(key, "private key", error))?;
    let mismatch = |error: rustls::Error| TlsError::Mismatch {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        reason: error.to_string(),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(mismatch)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn self_signed(folder: &Path, hosts: &[String]) -> Result<(PathBuf, PathBuf), TlsError> {
    let certificate = folder.join("certificate.pem");
    let key = folder.join("key.pem");
    match (certificate.exists(), key.exists()) {
        (true, true) => return Ok((certificate, key)),
        (true, false) => return Err(TlsError::KeyLost { certificate, key }),
        // A key alone is what a crash between the two writes leaves.
        (false, _) => {}
    }
    let made = rcgen::generate_simple_self_signed(hosts)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { path, source }
    };
    fs::create_dir_all(folder)
        .and_then(|()| sync_folder(folder))
        .map_err(failed(folder))?;
    write(&key, &made.signing_key.serialize_pem(), 0o600).map_err(failed(&key))?;
    write(&certificate, &made.cert.pem(), 0o644).map_err(failed(&certificate))?;
    info!(certificate = %certificate.display(), ?hosts, "made a self-signed certificate for clients");
    Ok((certificate, key))
}

/// All or nothing: a certificate that is there is complete.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The key's name is durable before there is a certificate: the other way round a power loss would leave a node that does
    // not start.
    sync_folder(path)
}

/// Makes the name of `path` durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Tls = Tls {
        mode: crate::config::TlsMode::Permissive,
        certificate: None,
        key: None,
    };

    #[test]
    fn the_self_signed_certificate_is_made_once_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        acceptor(&NONE, folder.path(), &hosts).unwrap();
        let read = || fs::read_to_string(folder.path().join("tls/certificate.pem")).unwrap();
        let first = read();
        acceptor(&NONE, folder.path(), &hosts).unwrap();
        assert_eq!(read(), first);
        let mode =
            std::os::unix::fs::MetadataExt::mode(&fs::metadata(folder.path().join("tls/key.pem")).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_file(folder.path().join("tls/key.pem")).unwrap();
        assert!(matches!(
            acceptor(&NONE, folder.path(), &hosts),
            Err(TlsError::KeyLost { .. })
        ));
    }

    #[test]
    fn a_configured_certificate_is_used_and_a_wrong_one_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let pair = |at: &str| self_signed(&path(at), &["example.org".to_owned()]).unwrap();
        let ((certificate, key), (_, other_key)) = (pair("a"), pair("b"));
        let with = |certificate: PathBuf, key: PathBuf| {
            let tls = Tls {
                certificate: Some(certificate),
                key: Some(key),
                ..NONE
            };
            acceptor(&tls, folder.path(), &[]).map(|_| ())
        };
        with(certificate.clone(), key.clone()).unwrap();
        assert!(!path(FOLDER).exists());
        assert!(matches!(
            with(certificate.clone(), other_key),
            Err(TlsError::Mismatch { .. })
        ));
        assert!(matches!(
            with(certificate.clone(), path("none")),
            Err(TlsError::Configured { key: "tls.key", .. })
        ));
        assert!(matches!(
            with(certificate.clone(), certificate),
            Err(TlsError::Content { .. })
        ));
        assert!(matches!(with(key.clone(), key), Err(TlsError::Mismatch { .. })));
    }
}
