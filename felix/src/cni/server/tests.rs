use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::super::protocol::CniRequest;
use super::super::testing::{Directory, Fake, Fault, directory};
use super::*;

struct Agent {
    fake: Fake,
    directory: Directory,
    server: Server<Fake>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Agent {
    fn new(options: Options) -> Self {
        let directory = directory();
        std::fs::write(directory.path().join("netns"), "").unwrap();
        let (journal, loaded) = Journal::open(directory.path(), "boot").unwrap();
        let fake = Fake::default();
        let server = Server::new(Arc::new(fake.clone()), journal, loaded, options).unwrap();
        let stop = CancellationToken::new();
        let listener = Listener::bind(&directory.path().join("run/felix.sock")).unwrap();
        let serving = {
            let (server, stop) = (server.clone(), stop.clone());
            tokio::spawn(async move { server.serve(listener, stop).await })
        };
        Self { fake, directory, server, stop, serving }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/felix.sock")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    fn request(&self, command: &str, id: &str) -> Request {
        Request::Cni(Box::new(CniRequest {
            command: command.into(),
            container_id: id.into(),
            netns: self.directory.path().join("netns").display().to_string(),
            ifname: "eth0".into(),
            config: json!({"cniVersion": "1.1.0", "name": "net", "type": "caracal"}),
            ..CniRequest::default()
        }))
    }

    async fn ask(&self, request: &Request) -> Result<Value, Error> {
        let mut stream = self.connect().await;
        protocol::send_async(&mut stream, request).await.unwrap();
        protocol::receive_async::<Reply<Value>>(&mut stream).await.unwrap().into_result()
    }

    async fn cni(&self, command: &str, id: &str) -> Result<Value, Error> {
        self.ask(&self.request(command, id)).await
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waited = timeout(Duration::from_secs(60), async {
            while !condition(self) {
                sleep(Duration::from_millis(1)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what} did not come about");
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(Duration::from_secs(60), self.serving).await.unwrap().unwrap();
        assert!(!self.directory.path().join("run/felix.sock").exists());
        assert_eq!(self.server.unfinished(), 0);
    }
}

fn short() -> Options {
    Options { client_timeout: Duration::from_secs(2), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_pods_at_once_come_and_go() {
    let agent = Arc::new(Agent::new(Options::default()));
    for command in ["ADD", "DEL"] {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..200 {
            let agent = Arc::clone(&agent);
            tasks.spawn(async move { agent.cni(command, &format!("c{n}")).await.unwrap() });
        }
        let results = tasks.join_all().await;
        let pods = if command == "ADD" { 200 } else { 0 };
        let addresses: BTreeSet<String> = results
            .iter()
            .filter_map(|one| Some(one["ips"][0]["address"].as_str()?.to_owned()))
            .collect();
        assert_eq!(addresses.len(), pods);
        assert_eq!(agent.fake.world().links.len(), pods);
        assert_eq!(agent.server.endpoints().len(), pods);
    }
    agent.fake.assert_empty();
    let mut served: BTreeMap<(String, u32), usize> = BTreeMap::new();
    agent.until("400 observations", |agent| agent.fake.0.lock().observed.len() == 400).await;
    for one in &agent.fake.0.lock().observed {
        *served.entry((one.command.to_string(), one.code)).or_default() += 1;
    }
    assert_eq!(served, [(("ADD".into(), 0), 200), (("DEL".into(), 0), 200)].into());
    Arc::into_inner(agent).unwrap().end().await;
}

#[tokio::test]
async fn clients_that_send_garbage_or_half_or_nothing_change_nothing() {
    let agent = Agent::new(short());
    let whole = protocol::encode(&agent.request("ADD", "c1")).unwrap();
    let mut held = Vec::new();
    for cut in (0..whole.len()).step_by(13) {
        // One that closes there, and one that waits there until it is closed on.
        let mut closing = agent.connect().await;
        closing.write_all(&whole[..cut]).await.unwrap();
        let mut waiting = agent.connect().await;
        waiting.write_all(&whole[..cut]).await.unwrap();
        held.push(waiting);
    }
    for (bytes, reason) in [
        (&[0xff; 64][..], "over the limit"),
        (&b"\0\0\0\x02{}"[..], "missing field `request`"),
        (&b"\0\0\0\x05hello"[..], "expected value"),
        (&b"\0\0\0\x0f{\"request\":\"x\"}"[..], "unknown variant `x`"),
    ] {
        let mut stream = agent.connect().await;
        stream.write_all(bytes).await.unwrap();
        let reply: CniReply = protocol::receive_async(&mut stream).await.unwrap();
        let error = reply.into_result().unwrap_err();
        assert_eq!(error.code, code::DECODE);
        assert!(error.details.contains(reason), "{error}");
    }
    let error = agent.cni("MEOW", "c1").await.unwrap_err();
    assert_eq!(
        (error.code, error.msg.as_str()),
        (code::INVALID_ENVIRONMENT, "unknown CNI_COMMAND: MEOW")
    );
    for mut waiting in held {
        let mut rest = Vec::new();
        let closed = timeout(Duration::from_secs(60), waiting.read_to_end(&mut rest)).await;
        // Closed without a word, or reset because what it had sent was not all read.
        assert!(closed.unwrap().is_err() || rest.is_empty());
    }
    assert_eq!(agent.fake.calls(), [""; 0]);
    // And it still serves.
    agent.cni("ADD", "c1").await.unwrap();
    agent.cni("DEL", "c1").await.unwrap();
    agent.fake.assert_empty();
    agent.end().await;
}

#[tokio::test]
async fn an_add_whose_runtime_goes_away_is_undone_wherever_it_is() {
    for step in 0..5 {
        let agent = Agent::new(Options::default());
        agent.fake.faults(&[(step, Fault::HangAfter)]);
        let mut stream = agent.connect().await;
        protocol::send_async(&mut stream, &agent.request("ADD", "c1")).await.unwrap();
        agent.until("the step that hangs", |agent| agent.fake.0.lock().faults.is_empty()).await;
        drop(stream);
        agent.until("the end of the ADD", |agent| !agent.fake.0.lock().observed.is_empty()).await;
        assert_eq!(agent.fake.0.lock().observed[0].code, code::TRY_AGAIN_LATER);
        agent.fake.assert_empty();
        agent.end().await;
    }
}

#[tokio::test]
async fn an_add_whose_answer_nobody_takes_is_undone() {
    let agent = Agent::new(short());
    // An answer of nearly 1 MiB does not fit into the socket of a client that does not read.
    let Request::Cni(mut request) = agent.request("ADD", "c1") else { unreachable!() };
    request.config["dns"] = json!({"search": ["x".repeat(1_000_000)]});
    let mut stream = agent.connect().await;
    protocol::send_async(&mut stream, &Request::Cni(request)).await.unwrap();
    agent.until("the link", |agent| !agent.fake.world().links.is_empty()).await;
    agent.until("its removal", |agent| agent.fake.world().assigned.is_empty()).await;
    drop(stream);
    agent.until("the record's removal", |agent| agent.server.unfinished() == 0).await;
    agent.fake.assert_empty();
    agent.end().await;
}

#[tokio::test]
async fn a_withdrawal_does_not_touch_what_was_added_since() {
    let agent = Agent::new(Options::default());
    agent.cni("ADD", "c1").await.unwrap();
    let [first] = agent.server.endpoints().try_into().unwrap();
    agent.cni("DEL", "c1").await.unwrap();
    agent.cni("ADD", "c1").await.unwrap();
    agent.server.0.attachments.withdraw(&first.id, first.host_index).await;
    let [second] = agent.server.endpoints().try_into().unwrap();
    assert_ne!(first.host_index, second.host_index);
    agent.server.0.attachments.withdraw(&second.id, second.host_index).await;
    agent.fake.assert_empty();
    agent.end().await;
}

#[tokio::test]
async fn a_defect_in_one_request_is_answered_and_undone() {
    let agent = Agent::new(Options {
        retry: (Duration::from_millis(1), Duration::from_millis(5)),
        ..Options::default()
    });
    agent.fake.faults(&[(3, Fault::Panic)]);
    let error = agent.cni("ADD", "c1").await.unwrap_err();
    assert_eq!(error.code, code::INTERNAL);
    agent.until("the undoing", |agent| agent.server.unfinished() == 0).await;
    agent.fake.assert_empty();
    agent.end().await;
}

#[tokio::test]
async fn adds_that_wait_hold_up_neither_del_nor_status() {
    let agent = Agent::new(Options { concurrency: 2, ..Options::default() });
    agent.cni("ADD", "c0").await.unwrap();
    agent.fake.faults(&[(0, Fault::HangBefore), (1, Fault::HangBefore)]);
    let mut waiting = Vec::new();
    for n in 1..=3 {
        let mut stream = agent.connect().await;
        protocol::send_async(&mut stream, &agent.request("ADD", &format!("c{n}"))).await.unwrap();
        waiting.push(stream);
    }
    agent.until("two that wait", |agent| agent.fake.calls().len() == 2).await;
    agent.cni("STATUS", "").await.unwrap();
    agent.cni("DEL", "c0").await.unwrap();
    // The third gets its turn when one of the others goes.
    let mut third = waiting.pop().unwrap();
    drop(waiting);
    let reply: CniReply = protocol::receive_async(&mut third).await.unwrap();
    reply.into_result().unwrap();
    agent.cni("DEL", "c3").await.unwrap();
    agent.fake.assert_empty();
    agent.end().await;
}

#[tokio::test]
async fn too_many_clients_are_refused_and_others_are_not_harmed() {
    let agent = Agent::new(Options { connections: 2, ..Options::default() });
    let first = agent.connect().await;
    let second = agent.connect().await;
    agent.until("both accepted", |agent| agent.server.0.connections.available_permits() == 0).await;
    let mut third = agent.connect().await;
    let reply: CniReply = protocol::receive_async(&mut third).await.unwrap();
    let error = reply.into_result().unwrap_err();
    assert_eq!(error.code, code::TRY_AGAIN_LATER);
    drop((first, second));
    agent.until("both gone", |agent| agent.server.0.connections.available_permits() == 2).await;
    agent.cni("STATUS", "").await.unwrap();
    agent.end().await;
}

#[tokio::test]
async fn the_command_line_is_answered_and_status_says_why_not() {
    let agent = Agent::new(Options::default());
    for (request, text) in [
        (Request::Status, "Status"),
        (Request::Endpoints, "Endpoints"),
        (Request::Routes, "Routes"),
    ] {
        assert_eq!(agent.ask(&request).await.unwrap(), json!({"answer to": text}));
    }
    assert_eq!(agent.cni("STATUS", "").await.unwrap(), Value::Null);
    let not_ready = Error { code: 51, msg: "the kernel refuses".into(), details: String::new() };
    agent.fake.0.lock().not_ready = Some(not_ready.clone());
    assert_eq!(agent.cni("STATUS", "").await.unwrap_err(), not_ready);
    agent.end().await;
}

#[tokio::test]
async fn stopping_gives_up_and_undoes_what_is_under_way() {
    let agent = Agent::new(Options::default());
    agent.fake.faults(&[(4, Fault::HangAfter)]);
    let mut stream = agent.connect().await;
    protocol::send_async(&mut stream, &agent.request("ADD", "c1")).await.unwrap();
    agent.until("the link's set-up", |agent| agent.fake.calls().len() == 5).await;
    agent.stop.cancel();
    let reply: CniReply = protocol::receive_async(&mut stream).await.unwrap();
    let error = reply.into_result().unwrap_err();
    assert_eq!(
        (error.code, &*error.details),
        (code::TRY_AGAIN_LATER, "given up while setting up the link")
    );
    agent.fake.assert_empty();
    agent.end().await;
}

#[tokio::test]
async fn the_socket_is_roots_alone_and_one_agents_at_a_time() {
    let agent = Agent::new(Options::default());
    let path = agent.socket();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = Listener::bind(&path).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().ends_with("another agent listens here"), "{error}");
    let directory = path.parent().unwrap().to_owned();
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);

    // One that was killed leaves its socket; the next takes its place, and only it removes it.
    let stale = directory.join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let first = Listener::bind(&stale).unwrap();
    std::fs::remove_file(&stale).unwrap();
    let second = Listener::bind(&stale).unwrap();
    drop(first);
    assert!(std::os::unix::net::UnixStream::connect(&stale).is_ok());
    drop(second);
    assert!(!stale.exists());
    agent.end().await;
}

#[tokio::test]
async fn interface_prefixes_leave_room_for_the_hash() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let directory = directory();
    let accepted = |prefix: &str| {
        let state = directory.path().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        let (journal, loaded) = Journal::open(&state, "boot").unwrap();
        let options = Options { interface_prefix: prefix.into(), ..Options::default() };
        Server::new(Arc::new(Fake::default()), journal, loaded, options).is_ok()
    };
    assert!(accepted("cali") && accepted("c") && accepted("a-b_"));
    assert!(!accepted("") && !accepted("calix") && !accepted("a/b") && !accepted("é"));
}
