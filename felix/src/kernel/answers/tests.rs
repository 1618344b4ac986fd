use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;

use netlink::netns::Netns;
use netlink::nft::{BaseChain, Chain, Field, Hook, Rule, Transaction};

use super::super::layout::{FAMILY, Queue};
use super::super::nft::queue;
use super::*;

const LONG: Duration = Duration::from_secs(20);

/// A message that says that `a.example` is 192.0.2.`last`.
fn message(last: u8) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    bytes.extend(b"\x01a\x07example\x00\x00\x01\x00\x01");
    bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last]);
    bytes
}

/// What is sent to port 5300 of this namespace is handed over.
fn write() {
    let rule = Rule::new().l4proto(17).equals(Field::DestinationPort, &5300u16.to_be_bytes());
    let rule = match queue() {
        Queue::Expression => rule.queue(ANSWERS),
        Queue::Target => rule.queue_by_target(ANSWERS),
        Queue::Missing => panic!("this kernel has neither nft_queue nor xt_NFQUEUE"),
    };
    let base = BaseChain { kind: "filter".into(), hook: Hook::Output, priority: 0, accept: true };
    let chain = Chain { name: "out".into(), base: Some(base), rules: Vec::new() };
    let mut tx = Transaction::new(FAMILY, "answers");
    tx.add_table(0, None);
    tx.add_chain(&chain);
    tx.add_rule("out", &rule);
    tx.commit(&mut Socket::open(Protocol::Netfilter).unwrap()).unwrap();
}

#[test]
fn an_answer_waits_until_it_was_learned_and_no_longer_than_it_may() {
    let test = || {
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        write();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut answers = Answers::listen(2).unwrap();
        let monitor = answers.monitor();
        let pod = UdpSocket::bind((Ipv4Addr::LOCALHOST, 5300)).unwrap();
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let send = |bytes: &[u8]| server.send_to(bytes, (Ipv4Addr::LOCALHOST, 5300)).unwrap();
        let hears = |within: Duration| -> Option<u8> {
            pod.set_read_timeout(Some(within)).unwrap();
            let mut buffer = [0; 1500];
            pod.recv(&mut buffer).ok().map(|length| buffer[length - 1])
        };
        let mut take = || -> Told {
            let mut told = Vec::new();
            runtime.block_on(async {
                tokio::time::timeout(LONG, answers.recv_many(&mut told, 1)).await.unwrap()
            });
            told.pop().unwrap()
        };
        // The thread listens from some moment on.
        let until = Instant::now() + LONG;
        while monitor.status().read == 0 {
            assert!(Instant::now() < until, "{:?}", monitor.status());
            send(b"no answer");
            assert_eq!(hears(LONG), Some(b'r'), "what is no answer passes");
        }
        send(&message(1));
        let told = take();
        assert_eq!((told.output, told.answers[0].name.as_str()), (1, "a.example"));
        let addresses = [(Ipv4Addr::new(192, 0, 2, 1).into(), 60)];
        assert_eq!(told.answers[0].addresses, addresses);
        let late = monitor.status().late;
        drop(told);
        assert_eq!(hears(LONG), Some(1));
        // Who does not let go of it holds nothing up for ever.
        send(&message(2));
        let told = take();
        assert_eq!(hears(LONG), Some(2));
        drop(told);
        assert!(monitor.status().late > late);
        // Nor do those that find the agent's queue full.
        for last in 3..9 {
            send(&message(last));
        }
        let heard: Vec<Option<u8>> = (3..9).map(|_| hears(LONG)).collect();
        let mut heard: Vec<u8> = heard.into_iter().flatten().collect();
        heard.sort_unstable();
        assert_eq!(heard, (3..9).collect::<Vec<u8>>());
        // With the agent gone everything passes.
        drop(answers);
        let until = Instant::now() + LONG;
        loop {
            send(&message(9));
            // What the thread still held when it ended is gone, as any datagram may be.
            match hears(Duration::from_millis(200)) {
                Some(9) => break,
                other => assert!(other.is_none() && Instant::now() < until, "{other:?}"),
            }
        }
        assert_eq!(monitor.status().problem, None);
    };
    Netns::create().unwrap().run(test).unwrap();
}
