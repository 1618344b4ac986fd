//! `ipam`: what an administrator asks of and does to the addresses in the store. Verbs, tables and
//! texts are those of `calicoctl ipam`.
//!
//! Exit codes: 0 all well; 1 something was found (a problem, an address that is not assigned);
//! 2 the command line or its files are wrong; 3 the store does not answer or refuses.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipam::EtcdConfig;
use ipam::store::embedded::EmbeddedStore;
use ipam::store::etcd::EtcdStore;
use ipam::store::{Store, StoreError};
use ipam::timestamp::Timestamp;

mod cli;

use cli::{Outcome, check, configure, data, disown, gc, release, show, split, thaw};

#[derive(Parser)]
#[command(
    version,
    about = "Shows, checks and mends the addresses of a cluster",
    propagate_version = true
)]
struct Cli {
    #[command(flatten)]
    access: Access,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables and sentences.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// How to reach the store and where the pools are described.
#[derive(Args)]
struct Access {
    /// etcd's endpoints, separated by commas.
    #[arg(
        long,
        env = "ETCD_ENDPOINTS",
        value_delimiter = ',',
        global = true,
        default_value = "http://127.0.0.1:2379",
        value_name = "URL"
    )]
    endpoints: Vec<String>,
    /// PEM file of the authority that signed etcd's certificates.
    #[arg(long, env = "ETCD_CA_CERT_FILE", global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate.
    #[arg(long, env = "ETCD_CERT_FILE", global = true, value_name = "FILE")]
    cert_file: Option<PathBuf>,
    /// PEM file of the client's key.
    #[arg(long, env = "ETCD_KEY_FILE", global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// etcd's user name. The password comes from --password-file or from ETCD_PASSWORD.
    #[arg(long, env = "ETCD_USERNAME", global = true, value_name = "NAME")]
    username: Option<String>,
    /// File that holds the password.
    #[arg(long, env = "ETCD_PASSWORD_FILE", global = true, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Use the embedded store of this machine instead of etcd; its agent must be stopped.
    #[arg(long, global = true, value_name = "FILE")]
    embedded: Option<PathBuf>,
    /// YAML file of IPPools and IPReservations, beside those in the store, and of the
    /// IPAMConfiguration, e.g. what `kubectl get ippools,ipreservations,ipamconfigurations -o yaml`
    /// prints.
    #[arg(long, global = true, value_name = "FILE")]
    pools: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Show how much of the pools is in use.
    Show(show::Options),
    /// Check the integrity of the IPAM data. Exits with 1 if there are problems.
    Check(check::Options),
    /// Release an address from where it is assigned, or what a report says is not in use. Releasing
    /// what a pod uses cuts it off.
    Release(release::Options),
    /// Release what no pod and no node uses any more.
    Gc(gc::Options),
    /// Change the cluster's IPAM configuration in the store. Agents that find an IPAMConfiguration
    /// named default take that instead; where --pools has one that says otherwise, exits with 1.
    Configure(configure::Options),
    /// Split a pool of the store into smaller ones.
    Split(split::Options),
    /// Forget which instance owns a node's name, after that machine is gone for good, so that
    /// another one of this name can take over its blocks.
    Disown(disown::Options),
    /// Let blocks be claimed again after the store was restored from an older copy, which they are by
    /// themselves when every node has said what it has. Exits with 1 if nodes have not.
    Thaw(thaw::Options),
}

impl Access {
    fn open(&self) -> anyhow::Result<Arc<dyn Store>> {
        if let Some(path) = &self.embedded {
            anyhow::ensure!(path.exists(), "{}: no such file", path.display());
            return Ok(Arc::new(EmbeddedStore::open(path)?));
        }
        let password = match &self.password_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            // Not an argument of clap, which would show it in its help.
            None => std::env::var("ETCD_PASSWORD").ok(),
        };
        let config = EtcdConfig {
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            username: self.username.clone(),
            password: password.filter(|_| self.username.is_some()),
            ..EtcdConfig::new(self.endpoints.clone())
        };
        Ok(Arc::new(EtcdStore::new(&config)?))
    }
}

async fn run(cli: Cli, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let Cli { access, output, command } = cli;
    let json = output == Format::Json;
    let files = match &access.pools {
        Some(path) => data::Pools::from_file(path)?,
        None => data::Pools::default(),
    };
    let store = access.open()?;
    let now = Timestamp::from(SystemTime::now());
    match command {
        Command::Show(options) => {
            show::run(&data::Data::load(&*store, files).await?, &options, json, out)
        }
        Command::Check(options) => {
            let data = data::Data::load(&*store, files).await?.probe(&*store).await?;
            check::run(&data, &options, now, json, out)
        }
        Command::Gc(options) => {
            let data = data::Data::load(&*store, files).await?;
            gc::run(&*store, &data, &options, now, json, out).await
        }
        Command::Configure(options) => configure::run(&*store, &files, &options, json, out).await,
        Command::Split(options) => split::run(&*store, &options, now, json, out).await,
        Command::Release(options) => release::run(&*store, &options, now, json, out).await,
        Command::Disown(options) => disown::run(&*store, &options, json, out).await,
        Command::Thaw(options) => thaw::run(&*store, &options, json, out).await,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let cli = Cli::parse();
    let mut text = Vec::new();
    let result = run(cli, &mut text).await;
    let (code, error) = match result {
        Ok(Outcome::Well) => (0, None),
        Ok(Outcome::Found) => (1, None),
        Err(error) if error.chain().any(<dyn std::error::Error>::is::<StoreError>) => {
            (3, Some(error))
        }
        Err(error) => (2, Some(error)),
    };
    let written = io::stdout().lock().write_all(&text);
    if let Some(error) = error {
        // Whoever closed our standard error does not read it.
        let _ = writeln!(io::stderr().lock(), "Error: {error:#}");
    }
    match written {
        // `ipam show | head` has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(2),
        _ => ExitCode::from(code),
    }
}
