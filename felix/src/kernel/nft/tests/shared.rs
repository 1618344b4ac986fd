//! Who writes, in which order, and what becomes of what fails or of whom nobody waits for.

use std::pin::{Pin, pin};
use std::sync::MutexGuard;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use proptest::prelude::*;

use super::super::shared::Shared;
use super::*;

/// Longer than any machine stands still.
const PATIENCE: Duration = Duration::from_secs(30);

fn share(changes: Vec<Change>) -> Shared<Faulty> {
    let mut writer = start(true);
    writer.change(&delta(changes));
    writer.set_in_sync();
    writer.flush().unwrap();
    Shared::start(writer, None).unwrap()
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// The writer, as a caller or the thread holds it.
fn held(shared: &Shared<Faulty>) -> MutexGuard<'_, Writer<Faulty>> {
    shared.writer.lock().unwrap()
}

fn last_by(shared: &Shared<Faulty>) -> ThreadId {
    *held(shared).channel.by.last().unwrap()
}

fn workloads(indexes: impl IntoIterator<Item = u32>) -> Vec<Change> {
    indexes.into_iter().map(|index| member(Key::Workload(index))).collect()
}

/// The most elements that a caller writes.
fn most() -> u32 {
    u32::try_from(BRIEF).unwrap()
}

/// One poll, as that of an executor which then turns to something else.
fn poll<T>(work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    work.now_or_never()
}

#[test]
fn a_few_elements_are_written_by_who_asks_and_many_by_the_thread() {
    inside(|| {
        let shared = share(everything());
        let few = shared.commit(delta(workloads(100..100 + most())));
        assert_eq!(pin!(few).now_or_never(), Some(Ok(())), "within the first poll");
        assert_eq!(last_by(&shared), thread::current().id());
        block(shared.commit(delta(workloads(1000..=1000 + most())))).unwrap();
        assert_ne!(last_by(&shared), thread::current().id());
        let all = [everything(), workloads(100..100 + most()), workloads(1000..=1000 + most())];
        assert_eq!(kernel_has(), wanted(&all.concat()));
        // What changes nothing is no transaction.
        let before = generation();
        let same = shared.commit(delta(workloads(100..110)));
        assert_eq!(pin!(same).now_or_never(), Some(Ok(())));
        assert_eq!(generation(), before);
    });
}

/// Reading what the kernel has may take half a second: that is not for an executor's thread.
#[test]
fn what_needs_chains_is_the_threads() {
    inside(|| {
        let shared = share(workloads([7]));
        for change in [member(Key::Asks(7)), member(Key::HostInterface(interface("eth0")))] {
            for change in [change, gone(change.key)] {
                block(shared.commit(delta(vec![change]))).unwrap();
                assert_ne!(last_by(&shared), thread::current().id());
                assert_eq!(kernel_has().contains_key(&change.key), change.value.is_some());
            }
        }
        // The chain for masquerading needs nothing to be read.
        let pool = member(Key::Masquerade(net("10.0.0.0/8")));
        for change in [pool, gone(pool.key)] {
            let alone = shared.commit(delta(vec![change]));
            assert_eq!(pin!(alone).now_or_never(), Some(Ok(())));
            assert_eq!(last_by(&shared), thread::current().id());
            assert_eq!(kernel_has().contains_key(&change.key), change.value.is_some());
        }
    });
}

/// Among many, an element that leads to a chain takes the kernel milliseconds.
#[test]
fn what_the_kernel_looks_for_loops_in_is_the_threads_where_there_is_much() {
    inside(|| {
        let few = u32::try_from(WALKED).unwrap() - 10;
        let shared = share(workloads(100..100 + few));
        let own = thread::current().id();
        let port = |verdict| policy(7, None, Traffic::Port(6, 80), verdict);
        let write = |change: Change| {
            block(shared.commit(delta(vec![change]))).unwrap();
            assert_eq!(kernel_has().get(&change.key), change.value.as_ref());
            last_by(&shared) == own
        };
        assert!(write(logged(port(Verdict::Deny))) && write(port(Verdict::Allow)));
        block(shared.commit(delta(workloads(10_000..10_100)))).unwrap();
        assert!(!write(logged(port(Verdict::Deny))));
        // What leads to none is brief all the same, and so is to delete one that does.
        assert!(write(port(Verdict::Deny)) && write(port(Verdict::Allow)));
        assert!(!write(logged(port(Verdict::Allow))));
        assert!(write(gone(port(Verdict::Allow).key)));
    });
}

#[test]
fn who_finds_the_writer_held_waits_and_nothing_that_was_asked_is_lost() {
    inside(|| {
        let shared = share(workloads([7]));
        let (first, second);
        {
            let _writer = held(&shared);
            let mut lost = Box::pin(shared.commit(delta(workloads([100, 101]))));
            assert_eq!(poll(lost.as_mut()), None);
            drop(lost);
            first = shared.commit(delta(vec![gone(Key::Workload(100))]));
            let mut never = Box::pin(shared.commit(delta(workloads([102]))));
            assert_eq!(poll(never.as_mut()), None);
            second = shared.commit(delta(vec![gone(Key::Workload(102))]));
            // Asked after `never`, although it was made before it.
            let mut first = Box::pin(first);
            assert_eq!(poll(first.as_mut()), None);
            drop((first, never));
        }
        // Free or not, it is behind those.
        block(second).unwrap();
        let index = |key: &Key| matches!(key, Key::Workload(100 | 102));
        let now = kernel_has();
        assert!(!now.keys().any(index), "{now:?}");
        assert!(now.contains_key(&Key::Workload(101)), "nobody waited for it");
    });
}

#[test]
fn a_refused_transaction_is_repeated_by_the_thread() {
    inside(|| {
        let shared = share(everything());
        for errno in [libc::ENOMEM, libc::ENOBUFS] {
            let next = held(&shared).channel.commits;
            held(&shared).channel.fail.insert(next, errno);
            block(shared.commit(delta(workloads([100])))).unwrap();
            let by = held(&shared).channel.by[next..].to_vec();
            assert_eq!(by[0], thread::current().id());
            assert_ne!(by[1], thread::current().id());
            assert!(kernel_has().contains_key(&Key::Workload(100)));
            // Who does not wait for that has it written all the same.
            let next = held(&shared).channel.commits;
            held(&shared).channel.fail.insert(next, errno);
            let mut dropped = Box::pin(shared.commit(delta(vec![gone(Key::Workload(100))])));
            drop(poll(dropped.as_mut()));
            drop(dropped);
            block(shared.status()).unwrap();
            assert!(!kernel_has().contains_key(&Key::Workload(100)));
        }
        // Executed, and the answer lost: it is read.
        let next = held(&shared).channel.commits;
        held(&shared).channel.lose.insert(next);
        block(shared.commit(delta(workloads([101])))).unwrap();
        assert_eq!(block(shared.status()).unwrap().elements, kernel_has().len());
        assert!(kernel_has().contains_key(&Key::Workload(101)));
    });
}

#[test]
fn what_fails_twice_is_told_and_written_unasked_later() {
    inside(|| {
        let shared = share(everything());
        let next = held(&shared).channel.commits;
        held(&shared).channel.fail.extend([(next, libc::ENOMEM), (next + 1, libc::ENOMEM)]);
        let error = block(shared.commit(delta(workloads([100])))).unwrap_err();
        assert!(matches!(error, Error::Kernel(_)), "{error}");
        let deadline = Instant::now() + PATIENCE;
        while !kernel_has().contains_key(&Key::Workload(100)) {
            assert!(Instant::now() < deadline, "not repeated");
            thread::yield_now();
        }
    });
}

/// The caller's own attempt fails, and so does the thread's; who asks next does not overtake.
#[test]
fn after_a_failure_the_thread_writes_until_the_kernel_is_known_again() {
    inside(|| {
        let shared = share(everything());
        let next = held(&shared).channel.commits;
        held(&shared).channel.fail.extend([(next, libc::ENOMEM), (next + 1, libc::ENOMEM)]);
        block(shared.commit(delta(workloads([100])))).unwrap_err();
        block(shared.commit(delta(vec![gone(Key::Workload(7))]))).unwrap();
        assert_ne!(last_by(&shared), thread::current().id());
        let now = kernel_has();
        assert!(now.contains_key(&Key::Workload(100)) && !now.contains_key(&Key::Workload(7)));
        let alone = shared.commit(delta(vec![gone(Key::Workload(100))]));
        block(alone).unwrap();
        assert_eq!(last_by(&shared), thread::current().id());
    });
}

#[test]
fn an_element_that_the_kernel_refuses_is_named_to_its_caller_only() {
    inside(|| {
        let shared = share(everything());
        // It overlaps one that is there.
        let bad = policy(7, Some(1), Traffic::Ports(17, 1500, 2500), Verdict::Allow);
        let both = vec![bad, member(Key::Workload(100))];
        let error = block(shared.commit(delta(both))).unwrap_err();
        assert!(matches!(error, Error::Rejected(_)), "{error}");
        assert!(kernel_has().contains_key(&Key::Workload(100)));
        let other = shared.commit(delta(workloads([101])));
        assert_eq!(block(other), Ok(()));
        assert_eq!(last_by(&shared), thread::current().id());
        // One that needs no kernel to be refused.
        let wrong = policy(7, None, Traffic::Ports(6, 2, 1), Verdict::Allow);
        let error = block(shared.commit(delta(vec![wrong, member(Key::Workload(102))])));
        assert!(matches!(error, Err(Error::Rejected(_))), "{error:?}");
        assert_eq!(last_by(&shared), thread::current().id());
        assert!(kernel_has().contains_key(&Key::Workload(102)));
    });
}

#[test]
fn after_a_panic_there_is_no_writer() {
    inside(|| {
        let shared = share(everything());
        let panicking = shared.clone();
        let panicked = thread::spawn(move || {
            let _writer = held(&panicking);
            panic!("a caller, writing");
        });
        panicked.join().unwrap_err();
        let commit = shared.commit(delta(workloads([100])));
        assert_eq!(block(commit), Err(Error::Stopped));
        assert!(!kernel_has().contains_key(&Key::Workload(100)));
    });
}

#[test]
fn two_who_ask_at_once_are_both_written() {
    inside(|| {
        let shared = share(Vec::new());
        let all: Vec<u32> =
            (0..4).flat_map(|who| (0..200).map(move |at| who * 1000 + at)).collect();
        thread::scope(|scope| {
            for mine in all.chunks(200) {
                let shared = shared.clone();
                scope.spawn(move || {
                    for index in mine {
                        block(shared.commit(delta(workloads([*index])))).unwrap();
                        // Every third goes again.
                        if index % 3 == 0 {
                            let key = Key::Workload(*index);
                            block(shared.commit(delta(vec![gone(key)]))).unwrap();
                        }
                    }
                });
            }
        });
        let stay = all.into_iter().filter(|index| index % 3 != 0);
        assert_eq!(kernel_has(), wanted(&workloads(stay)));
    });
}

/// A change of the elements of some keys, and what its caller does.
#[derive(Clone, Debug)]
struct Asked {
    keys: Vec<u32>,
    class: Option<u32>,
    /// So many others besides, which makes it large.
    more: bool,
    caller: Caller,
}

#[derive(Clone, Copy, Debug)]
enum Caller {
    /// Waits for the answer before anything else is asked.
    Waits,
    /// Asks on, and looks for the answer in the end.
    Later,
    /// Asks on, and never looks.
    Goes,
}

fn asked() -> impl Strategy<Value = Asked> {
    let caller = prop_oneof![Just(Caller::Waits), Just(Caller::Later), Just(Caller::Goes)];
    let keys = prop::collection::vec(0..8_u32, 1..4);
    (keys, prop::option::of(1..5_u32), prop::bool::weighted(0.2), caller)
        .prop_map(|(keys, class, more, caller)| Asked { keys, class, more, caller })
}

fn changes(asked: &Asked) -> Vec<Change> {
    let address = |at: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + at));
    let more = if asked.more { 1000..1000 + most() } else { 0..0 };
    let change = |at| match asked.class {
        Some(number) => class(Key::Class(address(at)), number),
        None => gone(Key::Class(address(at))),
    };
    asked.keys.iter().copied().chain(more).map(change).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whoever writes, who waits and who goes: what the kernel has in the end is what they say one
    /// after the other.
    #[test]
    fn changes_take_effect_in_the_order_in_which_they_are_asked(
        script in prop::collection::vec((asked(), prop::option::weighted(0.1, 0..3_u8)), 1..60)
    ) {
        let run = || {
            let shared = share(Vec::new());
            let mut later = Vec::new();
            let mut expected = FxHashMap::default();
            for (asked, failures) in &script {
                let changes = changes(asked);
                for change in &changes {
                    match change.value {
                        Some(value) => expected.insert(change.key, value),
                        None => expected.remove(&change.key),
                    };
                }
                if let Some(failures) = failures {
                    let mut writer = held(&shared);
                    let next = writer.channel.commits;
                    writer.channel.fail.extend((0..*failures).map(|n| (next + usize::from(n), libc::ENOMEM)));
                }
                let asking = shared.clone();
                let mut commit = Box::pin(async move { asking.commit(delta(changes)).await });
                match asked.caller {
                    // A failure is tried again with the next change.
                    Caller::Waits => drop(block(commit)),
                    Caller::Later => if poll(commit.as_mut()).is_none() {
                        later.push(commit);
                    },
                    Caller::Goes => drop(poll(commit.as_mut())),
                }
            }
            held(&shared).channel.fail.clear();
            for commit in later {
                drop(block(commit));
            }
            block(shared.commit(delta(workloads([1])))).unwrap();
            expected.insert(Key::Workload(1), Value::Member);
            assert_eq!(kernel_has(), expected);
        };
        inside(run);
    }
}
