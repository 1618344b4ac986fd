//! How to reach etcd.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, Identity, TlsOptions};

/// How to reach etcd. `Debug` never shows the password.
#[derive(Clone)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port`; without a scheme, http.
    pub endpoints: Vec<String>,
    /// PEM file of the authority that signed the servers' certificates; required for https.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate; needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client's key; needs `cert_file`.
    pub key_file: Option<PathBuf>,
    /// User name, where etcd's authentication is on.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// Instead of `password`: a file that holds it, less one trailing newline. It is read for each
    /// new connection and again when etcd no longer takes what it said, so that a rotated password
    /// takes effect without a restart.
    pub password_file: Option<PathBuf>,
    /// How long one request may take.
    pub request_timeout: Duration,
}

impl EtcdConfig {
    /// How long one request may take where nothing else is said.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

    /// Plain access to these endpoints.
    pub fn new<S: Into<String>>(endpoints: impl IntoIterator<Item = S>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            username: None,
            password: None,
            password_file: None,
            request_timeout: Self::DEFAULT_TIMEOUT,
        }
    }

    /// The endpoints as a text.
    pub fn name(&self) -> String {
        format!("etcd ({})", self.endpoints.join(", "))
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("username", &self.username)
            .field("password_file", &self.password_file)
            .finish_non_exhaustive()
    }
}

/// Who we are to etcd.
pub(super) struct Credentials {
    user: String,
    password: Password,
}

enum Password {
    Text(String),
    File(PathBuf),
}

impl Credentials {
    /// None where no user is configured.
    pub(super) fn of(config: &EtcdConfig) -> Result<Option<Self>, String> {
        let password = match (&config.password, &config.password_file) {
            (Some(_), Some(_)) => {
                return Err("a password and a file for it are too much".to_owned());
            }
            (Some(text), None) => Some(Password::Text(text.clone())),
            (None, Some(file)) => Some(Password::File(file.clone())),
            (None, None) => None,
        };
        match (&config.username, password) {
            (Some(user), Some(password)) => Ok(Some(Self { user: user.clone(), password })),
            (None, None) => Ok(None),
            _ => Err("a user name needs a password, and the reverse".to_owned()),
        }
    }

    /// User and password as they are now. Reads a small file, if there is one.
    pub(super) fn read(&self) -> io::Result<(String, String)> {
        let password = match &self.password {
            Password::Text(text) => text.clone(),
            Password::File(path) => {
                let mut text = std::fs::read_to_string(path).map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
                })?;
                if text.ends_with('\n') {
                    text.pop();
                }
                text
            }
        };
        Ok((self.user.clone(), password))
    }

    /// True if reading again may tell something else.
    pub(super) fn may_change(&self) -> bool {
        matches!(self.password, Password::File(_))
    }
}

/// What the certificate files say.
pub(super) fn tls(config: &EtcdConfig) -> Result<TlsOptions, String> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let Some(ca_file) = &config.ca_file else {
        return Err("https endpoints need the file of the authority that signed them".to_owned());
    };
    if let Some(plain) = config.endpoints.iter().find(|url| !url.starts_with("https://")) {
        return Err(format!("all endpoints must begin with https:// or none, not {plain}"));
    }
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca_file)?));
    match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?)),
        (None, None) => {}
        _ => return Err("a client certificate needs its key, and the reverse".to_owned()),
    }
    Ok(tls)
}
