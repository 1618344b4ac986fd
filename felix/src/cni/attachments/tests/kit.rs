//! An agent that may be started again, over a kernel, an IPAM and a disk that fail at will.

use std::path::PathBuf;
use std::task::Poll;

use serde_json::json;

use super::super::super::journal::OpenError;
use super::super::super::protocol::CniRequest;
use super::super::super::testing::{Directory, Fake, directory};
use super::*;

/// An agent of a node whose kernel and IPAM (`fake`) and disk outlive it.
pub(super) struct Node {
    pub(super) fake: Fake,
    pub(super) directory: Arc<Directory>,
    pub(super) attachments: Arc<Attachments<Fake>>,
}

pub(super) fn options() -> Options {
    // Longer than a busy machine's disk takes, and than tests that see one pass would like:
    // these let their cases wait at the same time.
    let some = Duration::from_secs(2);
    Options {
        undo_timeout: some,
        release_timeout: some,
        retry: (Duration::from_millis(1), Duration::from_millis(5)),
        ..Options::default()
    }
}

impl Node {
    pub(super) fn new() -> Self {
        Self::with(options())
    }

    pub(super) fn with(options: Options) -> Self {
        let directory = Arc::new(directory());
        std::fs::write(directory.path().join("netns"), "").unwrap();
        Self::start(Fake::default(), directory, options)
    }

    pub(super) fn start(fake: Fake, directory: Arc<Directory>, options: Options) -> Self {
        let (journal, loaded) = open(&directory.path().join("state"));
        let backend = Arc::new(fake.clone());
        let attachments = Arc::new(Attachments::new(backend, journal, loaded, options));
        // A new agent wants routes to the endpoints it knows.
        let ready = attachments.ready();
        let routes =
            ready.iter().flat_map(|one| one.addresses.iter().map(|a| (*a, one.host_index)));
        fake.0.lock().world.routes = routes.chain(attachments.reached()).collect();
        Self { fake, directory, attachments }
    }

    /// What a new agent finds. The old one's tasks must have ended.
    pub(super) fn restart(self) -> Self {
        let Self { fake, directory, attachments } = self;
        assert_eq!(Arc::strong_count(&attachments), 1);
        drop(attachments);
        Self::start(fake, directory, options())
    }

    pub(super) fn netns(&self) -> PathBuf {
        self.directory.path().join("netns")
    }

    pub(super) fn call(&self, command: &str, container: &str, more: &Value) -> Call {
        self.call_for(command, container, "eth0", "web", more)
    }

    pub(super) fn call_for(
        &self,
        command: &str,
        id: &str,
        ifname: &str,
        pod: &str,
        more: &Value,
    ) -> Call {
        let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": "caracal"});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        Call::parse(&CniRequest {
            command: command.into(),
            container_id: id.into(),
            netns: self.netns().display().to_string(),
            ifname: ifname.into(),
            args: format!("K8S_POD_NAMESPACE=ns;K8S_POD_NAME={pod}"),
            config,
            ..CniRequest::default()
        })
        .unwrap()
    }

    pub(super) async fn serve(&self, call: &Call) -> Result<Option<Value>, Error> {
        let served = self.attachments.serve(call, &CancellationToken::new()).await;
        served.map(|served| served.output)
    }

    pub(super) async fn add(&self, container: &str) -> Result<Option<Value>, Error> {
        self.serve(&self.call("ADD", container, &json!({}))).await
    }

    pub(super) async fn del(&self, container: &str) -> Result<Option<Value>, Error> {
        self.serve(&self.call("DEL", container, &json!({}))).await
    }

    /// Finishes what can be finished in the background.
    pub(super) async fn settle(&self) {
        let stop = CancellationToken::new();
        let settled = async {
            while self.attachments.unfinished() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
            stop.cancel();
        };
        let both = async { tokio::join!(self.attachments.finish_unfinished(&stop), settled) };
        timeout(Duration::from_secs(60), both).await.unwrap();
    }

    /// Neither in the kernel and IPAM, nor in memory, nor on disk.
    #[track_caller]
    pub(super) fn assert_nothing_left(self) {
        self.fake.assert_empty();
        assert!(self.attachments.table.lock().is_empty());
        let directory = Arc::clone(&self.directory);
        drop(self);
        assert_eq!(open(&directory.path().join("state")).1.records, []);
    }
}

/// The writer of a journal that was dropped may still be ending.
pub(super) fn open(path: &std::path::Path) -> (Journal, Loaded) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match Journal::open(path, "boot") {
            Err(OpenError::InUse(_)) if Instant::now() < until => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

pub(super) const CALI: &str = "calic440f455693";

/// Polls `future` at most `polls` times; None if it is not finished by then.
pub(super) async fn poll_times<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}
