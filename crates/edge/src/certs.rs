//! Which certificate a host is shown.
//!
//! Lives here: certificates given by the operator, the local authority for all other hosts, choosing between them.
//! Does not live here: the handshake (`tls`), getting certificates from a public authority (control).
//! Invariant: the local authority's key is made once and never leaves the state directory; leaves are made when a known
//! host is asked for, never for arbitrary names a client invents.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::disk;
use crate::table::{Certificate, Problem};

/// Leaves of the local authority kept in memory; a full cache is emptied, making them again is cheap.
const LEAVES_MAX: usize = 4096;

/// A leaf is valid for at least a year from its making; long before that it is made anew.
const LEAF_RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);

/// The name shown when the client names no host we know.
const DEFAULT_HOST: &str = "localhost";

/// Why there is no local authority.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Its files cannot be read or written.
    #[error("could not keep the local certificate authority at {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// Its key is unusable.
    #[error("could not make a certificate of the local authority at {}", path.display())]
    Authority {
        /// Where its key is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: rcgen::Error,
    },
    /// The TLS library refused the key.
    #[error("could not use a certificate of the local authority")]
    Key(#[source] rustls::Error),
}

/// A certificate with its key, and all hosts it was given for.
pub(crate) type Pair = (Arc<CertifiedKey>, Arc<[String]>);

/// The certificates of one table.
#[derive(Debug, Default)]
pub(crate) struct Given {
    by_host: HashMap<Box<str>, Pair>,
}

impl Given {
    /// Reads the files a table names. Those that cannot be used are told; the rest works without them, and their hosts keep
    /// what they had: a pair that is being renewed does not fit for a moment.
    pub(crate) fn load(certificates: &[Certificate], before: &Given) -> (Given, Vec<Problem>) {
        let (mut given, mut problems) = (Given::default(), Vec::new());
        for (n, certificate) in certificates.iter().enumerate() {
            match read_pair(certificate) {
                Ok(key) => {
                    let (key, hosts) = (Arc::new(key), Arc::<[String]>::from(certificate.hosts.clone()));
                    for host in &certificate.hosts {
                        given
                            .by_host
                            .insert(host.as_str().into(), (key.clone(), hosts.clone()));
                    }
                }
                Err(what) => {
                    for host in certificate.hosts.iter().map(|host| Box::from(host.as_str())) {
                        if let Some(pair) = before.by_host.get(&host) {
                            given.by_host.insert(host, pair.clone());
                        }
                    }
                    problems.push(Problem {
                        at: format!("certificates[{n}]"),
                        what,
                    });
                }
            }
        }
        (given, problems)
    }

    /// The certificate for a host: exact, then a wildcard one label up (as browsers check it).
    pub(crate) fn find(&self, host: &str) -> Option<Pair> {
        let found = self.by_host.get(host).or_else(|| {
            let (_, parent) = host.split_once('.')?;
            self.by_host.get(format!("*.{parent}").as_str())
        });
        found.cloned()
    }
}

fn read_pair(certificate: &Certificate) -> Result<CertifiedKey, String> {
    let Certificate {
        cert_file, key_file, ..
    } = certificate;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert_file).and_then(Iterator::collect);
    let chain = chain.map_err(|e| format!("{}: {e}", cert_file.display()))?;
    if chain.is_empty() {
        return Err(format!("{}: no certificate in it", cert_file.display()));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| format!("{}: {e}", key_file.display()))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|e| format!("{}: {e}", key_file.display()))?;
    let pair = CertifiedKey::new(chain, key);
    pair.keys_match()
        .map_err(|e| format!("{} and {}: {e}", cert_file.display(), key_file.display()))?;
    Ok(pair)
}

/// A leaf, and when it was made.
type Leaf = (Arc<CertifiedKey>, Instant);

/// The authority that signs for hosts nobody gave a certificate for.
pub(crate) struct Authority {
    key_file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    leaves: Mutex<HashMap<Box<str>, Leaf>>,
}

impl Authority {
    /// Opens the authority in `<state_dir>/certificates`, making it when absent.
    pub(crate) fn open(state_dir: &Path) -> Result<Authority, CertificateError> {
        let dir = state_dir.join("certificates");
        let (key_file, cert_file) = (dir.join("local-ca.key"), dir.join("local-ca.crt"));
        let file = |path: &Path, cause| CertificateError::File {
            path: path.to_owned(),
            cause,
        };
        let rejected = |cause| CertificateError::Authority {
            path: key_file.clone(),
            cause,
        };
        disk::private_dir(&dir).map_err(|e| file(&dir, e))?;
        let key = match std::fs::read_to_string(&key_file) {
            Ok(pem) => KeyPair::from_pem(&pem).map_err(rejected)?,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(rejected)?;
                disk::write(&key_file, key.serialize_pem().as_bytes(), disk::Access::Private)
                    .map_err(|e| file(&key_file, e))?;
                key
            }
            Err(cause) => return Err(file(&key_file, cause)),
        };
        // The certificate is a function of the key, but a client's trust store holds the file's bytes: keep them.
        let certificate = match CertificateDer::from_pem_file(&cert_file) {
            Ok(certificate) => certificate,
            Err(_) => {
                let made = authority_params().self_signed(&key).map_err(rejected)?;
                disk::write(&cert_file, made.pem().as_bytes(), disk::Access::Public)
                    .map_err(|e| file(&cert_file, e))?;
                made.der().clone()
            }
        };
        let issuer = Issuer::new(authority_params(), key);
        Ok(Authority {
            key_file,
            issuer,
            certificate,
            leaves: Mutex::default(),
        })
    }

    /// A certificate for the host; `None`: the one for hosts we do not know.
    pub(crate) fn leaf(&self, host: Option<&str>) -> Result<Arc<CertifiedKey>, CertificateError> {
        let host = host.unwrap_or(DEFAULT_HOST);
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, made)) = leaves.get(host)
            && made.elapsed() < LEAF_RENEWAL
        {
            return Ok(key.clone());
        }
        let key = Arc::new(self.make(host)?);
        if leaves.len() >= LEAVES_MAX {
            leaves.clear();
        }
        leaves.insert(host.into(), (key.clone(), Instant::now()));
        Ok(key)
    }

    fn make(&self, host: &str) -> Result<CertifiedKey, CertificateError> {
        let rejected = |cause| CertificateError::Authority {
            path: self.key_file.clone(),
            cause,
        };
        let names = match host {
            DEFAULT_HOST => vec![
                "localhost".to_owned(),
                "*.localhost".to_owned(),
                "127.0.0.1".to_owned(),
                "::1".to_owned(),
            ],
            other => vec![other.to_owned()],
        };
        let mut params = CertificateParams::new(names).map_err(rejected)?;
        params
            .distinguished_name
            .push(DnType::CommonName, host.chars().take(64).collect::<String>());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Two calendar years: browsers refuse leaves valid for more than 825 days.
        let year = current_year();
        params.not_before = rcgen::date_time_ymd(year, 1, 1);
        params.not_after = rcgen::date_time_ymd(year + 2, 1, 1);
        let key = KeyPair::generate().map_err(rejected)?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(rejected)?;
        let secret = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let signer = rustls::crypto::ring::sign::any_ecdsa_type(&secret).map_err(CertificateError::Key)?;
        Ok(CertifiedKey::new(
            vec![leaf.der().clone(), self.certificate.clone()],
            signer,
        ))
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("key_file", &self.key_file)
            .finish_non_exhaustive()
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "Stoa local authority");
    params
}

fn current_year() -> i32 {
    /// The mean Gregorian year.
    const YEAR_S: u64 = 31_556_952;
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    i32::try_from(1970 + seconds / YEAR_S).unwrap_or(2100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_survives_a_restart_and_keeps_its_key_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path()).unwrap();
        let second = Authority::open(dir.path()).unwrap();
        assert_eq!(first.certificate, second.certificate);
        let leaf = second.leaf(Some("app.example")).unwrap();
        assert_eq!(leaf.cert[1], first.certificate);
        assert!(Arc::ptr_eq(&leaf, &second.leaf(Some("app.example")).unwrap()));
        let mode = std::fs::metadata(dir.path().join("certificates/local-ca.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn given_certificates_win_for_their_hosts_only() {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["*.b.example".to_owned()]).unwrap();
        let (cert_file, key_file) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
        std::fs::write(&cert_file, made.cert.pem()).unwrap();
        std::fs::write(&key_file, made.signing_key.serialize_pem()).unwrap();
        let good = Certificate {
            hosts: vec!["*.b.example".to_owned()],
            cert_file: cert_file.clone(),
            key_file,
        };
        let bad = Certificate {
            hosts: vec!["x".to_owned()],
            key_file: cert_file,
            ..good.clone()
        };
        let (given, problems) = Given::load(&[good, bad], &Given::default());
        assert_eq!(problems.len(), 1);
        assert!(given.find("a.b.example").is_some());
        assert!(given.find("x.a.b.example").is_none() && given.find("b.example").is_none());
    }
}
