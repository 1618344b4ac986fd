//! Fields that take more than one look: where they are read from, and what they need of each other.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::settings::Settings;
use super::{
    ConfigError, Drain, EtcdConfig, FlowRecordsConfig, IpamConfig, KubernetesConfig, LogConfig,
    LogFormat, SourceConfig,
};

pub(super) fn node_name(settings: &Settings) -> Result<String, ConfigError> {
    let name = match settings.text("nodeName")? {
        Some(name) => name.to_owned(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_err(|error| {
                settings.error("nodeName", format!("not set, and no host name: {error}"))
            })?
            .trim()
            .to_lowercase(),
    };
    if !is_dns_subdomain(&name) {
        return Err(
            settings.error("nodeName", format!("{name:?} is not a DNS subdomain name (RFC 1123)"))
        );
    }
    Ok(name)
}

pub(super) fn source(settings: &Settings) -> Result<SourceConfig, ConfigError> {
    let only_for =
        |kind: &str, fields: &[&str]| match fields.iter().find(|field| settings.is_set(field)) {
            Some(field) => Err(settings.error(field, format!("only for source.kind {kind}"))),
            None => Ok(()),
        };
    match settings.choice("source.kind", &["kubernetes", "directory"])?.unwrap_or("kubernetes") {
        "directory" => {
            only_for(
                "kubernetes",
                &["source.kubeconfig", "source.secretNamespace", "source.streamingLists"],
            )?;
            let path = absolute(settings, "source.path")?.ok_or_else(|| {
                settings.error("source.path", "required for source.kind directory".into())
            })?;
            if !path.is_dir() {
                return Err(
                    settings.error("source.path", format!("{} is not a directory", path.display()))
                );
            }
            Ok(SourceConfig::Directory { path })
        }
        _ => {
            only_for("directory", &["source.path"])?;
            let secret_namespace = settings.text("source.secretNamespace")?.map(ToOwned::to_owned);
            if let Some(name) = &secret_namespace
                && !is_dns_subdomain(name)
            {
                return Err(settings
                    .error("source.secretNamespace", format!("{name:?} is not a namespace name")));
            }
            Ok(SourceConfig::Kubernetes(KubernetesConfig {
                kubeconfig: readable(settings, "source.kubeconfig")?,
                secret_namespace,
                streaming_lists: settings
                    .parse("source.streamingLists", "true or false")?
                    .unwrap_or(false),
            }))
        }
    }
}

pub(super) fn ipam(settings: &Settings, source: &SourceConfig) -> Result<IpamConfig, ConfigError> {
    const ETCD_ONLY: [&str; 7] = [
        "ipam.endpoints",
        "ipam.caFile",
        "ipam.certFile",
        "ipam.keyFile",
        "ipam.username",
        "ipam.passwordFile",
        "ipam.localFirst",
    ];
    let default = match source {
        SourceConfig::Kubernetes(_) => "etcd",
        SourceConfig::Directory { .. } if settings.is_set("ipam.endpoints") => "etcd",
        SourceConfig::Directory { .. } => "embedded",
    };
    if settings.choice("ipam.store", &["etcd", "embedded"])?.unwrap_or(default) == "embedded" {
        if let Some(field) = ETCD_ONLY.iter().find(|field| settings.is_set(field)) {
            return Err(settings.error(field, "only for ipam.store etcd".into()));
        }
        return Ok(IpamConfig::Embedded);
    }
    let etcd = EtcdConfig {
        endpoints: settings.list("ipam.endpoints")?,
        ca_file: readable(settings, "ipam.caFile")?,
        cert_file: readable(settings, "ipam.certFile")?,
        key_file: readable(settings, "ipam.keyFile")?,
        username: settings.text("ipam.username")?.map(ToOwned::to_owned),
        password_file: readable(settings, "ipam.passwordFile")?,
        local_first: settings.parse("ipam.localFirst", "true or false")?.unwrap_or(true),
    };
    if etcd.endpoints.is_empty() {
        return Err(settings.error("ipam.endpoints", "required for ipam.store etcd".into()));
    }
    for endpoint in &etcd.endpoints {
        check_endpoint(endpoint).map_err(|reason| settings.error("ipam.endpoints", reason))?;
        if endpoint.starts_with("https://") && etcd.ca_file.is_none() {
            return Err(settings.error("ipam.caFile", "required for https endpoints".into()));
        }
    }
    for (one, other) in [("ipam.certFile", "ipam.keyFile"), ("ipam.username", "ipam.passwordFile")]
    {
        for (have, lack) in [(one, other), (other, one)] {
            if settings.is_set(have) && !settings.is_set(lack) {
                return Err(settings.error(lack, format!("required with {have}")));
            }
        }
    }
    Ok(IpamConfig::Etcd(etcd))
}

/// The reason never repeats an endpoint that may hold credentials.
fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let authority = ["http://", "https://"].iter().find_map(|scheme| endpoint.strip_prefix(scheme));
    let Some(authority) = authority else {
        return Err("each must begin with http:// or https://".into());
    };
    if authority.contains('@') {
        return Err("must not hold credentials; use username and passwordFile".into());
    }
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let host_is_right = match host.strip_prefix('[') {
        Some(rest) => {
            rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok())
        }
        None => {
            host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4())
                || is_dns_subdomain(&host.to_lowercase())
        }
    };
    if !host_is_right || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(format!("{endpoint:?} is not of the form https://HOST:PORT"));
    }
    Ok(())
}

pub(super) fn log(settings: &Settings) -> Result<LogConfig, ConfigError> {
    let level = settings.text("log.level")?.map(ToOwned::to_owned);
    if let Some(directives) = &level {
        crate::observe::logging::check_level(directives)
            .map_err(|reason| settings.error("log.level", reason))?;
    }
    let format = match settings.choice("log.format", &["text", "json"])? {
        Some("json") => LogFormat::Json,
        _ => LogFormat::Text,
    };
    Ok(LogConfig { level, format })
}

pub(super) fn router_id(settings: &Settings) -> Result<Option<Ipv4Addr>, ConfigError> {
    let id: Option<Ipv4Addr> = settings.parse("bgp.routerId", "an IPv4 address")?;
    if id.is_some_and(|id| id.is_unspecified()) {
        return Err(settings.error("bgp.routerId", "must not be 0.0.0.0 (RFC 6286)".into()));
    }
    Ok(id)
}

pub(super) fn drain(settings: &Settings) -> Result<Drain, ConfigError> {
    Ok(match settings.choice("bgp.drain", &["cordoned", "never"])? {
        Some("never") => Drain::Never,
        _ => Drain::Cordoned,
    })
}

pub(super) fn flow_records(settings: &Settings) -> Result<Option<FlowRecordsConfig>, ConfigError> {
    let megabytes = settings.number("flowRecords.maxMegabytes", 1..=1024)?;
    let Some(file) = absolute(settings, "flowRecords.file")? else {
        return match megabytes {
            None => Ok(None),
            Some(_) => {
                Err(settings
                    .error("flowRecords.file", "required with flowRecords.maxMegabytes".into()))
            }
        };
    };
    if !file.parent().is_some_and(std::path::Path::is_dir) || file.is_dir() {
        let reason = format!("{} is no file in a directory that exists", file.display());
        return Err(settings.error("flowRecords.file", reason));
    }
    Ok(Some(FlowRecordsConfig { file, max_bytes: megabytes.unwrap_or(16) << 20 }))
}

pub(super) fn directory(
    settings: &Settings,
    field: &str,
    default: &str,
) -> Result<PathBuf, ConfigError> {
    Ok(absolute(settings, field)?.unwrap_or_else(|| default.into()))
}

fn absolute(settings: &Settings, field: &str) -> Result<Option<PathBuf>, ConfigError> {
    let Some(text) = settings.text(field)? else { return Ok(None) };
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err(settings.error(field, format!("{text:?} is not an absolute path")));
    }
    Ok(Some(path))
}

fn readable(settings: &Settings, field: &str) -> Result<Option<PathBuf>, ConfigError> {
    let Some(path) = absolute(settings, field)? else { return Ok(None) };
    match std::fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => Ok(Some(path)),
        Ok(_) => Err(settings.error(field, format!("{} is not a file", path.display()))),
        Err(error) => Err(settings.error(field, format!("{}: {error}", path.display()))),
    }
}

fn is_dns_subdomain(name: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.len() <= 63
                && bytes.first().is_some_and(|b| alphanumeric(*b))
                && bytes.last().is_some_and(|b| alphanumeric(*b))
                && bytes.iter().all(|b| alphanumeric(*b) || *b == b'-')
        })
}
