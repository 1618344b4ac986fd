//! Against a scripted server for the faults that a real one does not make on demand, and against a
//! real API server where one can be had (see `control_plane`).

pub(crate) mod control_plane;
mod faults;
mod real;
mod script;

use std::fmt::Debug;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::model::{Kind, Update};

/// What a step of a test may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// An update, short enough to compare.
fn brief(update: &Update) -> String {
    match update {
        Update::Set(object) => format!("set {} {}", object.kind(), object.key()),
        Update::Remove(kind, key) => format!("remove {kind} {key}"),
        Update::InSync => "in sync".into(),
    }
}

/// The next `N` updates.
async fn next<const N: usize>(updates: &mut mpsc::Receiver<Update>) -> [String; N] {
    let mut briefs = Vec::new();
    while briefs.len() < N {
        match timeout(PATIENCE, updates.recv()).await {
            Ok(Some(update)) => briefs.push(brief(&update)),
            Ok(None) => panic!("the source has ended after {briefs:?}"),
            Err(_) => panic!("only {briefs:?} within {PATIENCE:?}"),
        }
    }
    briefs.try_into().unwrap()
}

/// Waits until the status is as wanted.
async fn wait_for<T: Debug>(
    status: &mut tokio::sync::watch::Receiver<T>,
    what: &str,
    wanted: impl Fn(&T) -> bool,
) {
    let result = timeout(PATIENCE, status.wait_for(|status| wanted(status))).await;
    let met = result.is_ok_and(|r| r.is_ok());
    assert!(met, "{what}: {:?}", status.borrow());
}

fn error_of(status: &super::SourceStatus, kind: Kind) -> Option<&str> {
    status.kinds[&kind].error.as_deref()
}

/// Those who resolve references ask the source: there is no second opinion.
#[tokio::test]
async fn secrets_are_read_in_the_namespace_of_the_credentials() {
    use crate::config::{KubernetesConfig, SourceConfig};
    use crate::observe::Metrics;
    use crate::source::Source;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    let kubeconfig = |namespace: &str| {
        format!(
            "{{apiVersion: v1, kind: Config, current-context: c, \
             contexts: [{{name: c, context: {{cluster: c, user: u{namespace}}}}}], \
             clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:1'}}}}], \
             users: [{{name: u, user: {{}}}}]}}"
        )
    };
    for (context, configured, wanted) in [
        (", namespace: net", None, "net"),
        (", namespace: net", Some("secrets"), "secrets"),
        ("", None, "default"),
    ] {
        std::fs::write(&path, kubeconfig(context)).unwrap();
        let config = SourceConfig::Kubernetes(KubernetesConfig {
            kubeconfig: Some(path.clone()),
            secret_namespace: configured.map(ToOwned::to_owned),
            streaming_lists: false,
        });
        let source = Source::open(&config, Metrics::new().source).await.unwrap();
        assert_eq!(&**source.secret_namespace(), wanted);
    }
    let config = SourceConfig::Directory { path: dir.path().to_owned() };
    let source = Source::open(&config, Metrics::new().source).await.unwrap();
    assert_eq!(&**source.secret_namespace(), "caracal-system");
}
