//! Groups of a few ranks, and what becomes of those that do not behave.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ltd_distributed::{Error, Fact, Group, Launch, Result, Work};

/// A port that nobody listens at.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn launch(rank: usize, world_size: usize, port: u16) -> Launch {
    Launch {
        rank,
        world_size,
        local_rank: rank,
        local_world_size: world_size,
        host: "localhost".to_owned(),
        port,
        served: false,
        run_id: "test".to_owned(),
        restarts: 0,
        secret: Vec::new(),
        timeout: Duration::from_secs(20),
    }
}

fn facts() -> Vec<Fact> {
    vec![Fact::new("configuration", "a"), Fact::new("version", "1")]
}

/// What each of some ranks comes to, at the same time.
fn ranks<T: Send>(size: usize, work: impl Fn(usize, u16) -> T + Sync) -> Vec<T> {
    let (port, work) = (free_port(), &work);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..size).map(|rank| scope.spawn(move || work(rank, port))).collect();
        handles.into_iter().map(|handle| handle.join().expect("no panic")).collect()
    })
}

/// The same of ranks that have joined.
fn group<T: Send>(size: usize, work: impl Fn(&Group) -> Result<T> + Sync) -> Vec<Result<T>> {
    ranks(size, |rank, port| {
        let group = Group::join(&launch(rank, size, port), &facts(), Work::unstoppable())?;
        let done = work(&group);
        group.leave(done.as_ref().err().map(|error| error as _));
        done
    })
}

#[test]
fn the_first_rank_is_heard_by_all_and_hears_all() {
    for size in [2, 3, 5] {
        let heard = group(size, |group| {
            let rank = group.rank() as u8;
            let mut heard = Vec::new();
            for round in 0..20 {
                let said = if group.leads() { vec![round, 7] } else { Vec::new() };
                heard.push(group.broadcast("a word", said)?);
                heard.extend(group.all_gather("answers", vec![round; usize::from(rank)])?);
                group.barrier("the end of a round")?;
            }
            let told = group.from_first("a number", || Ok::<_, Error>(vec![0.1f64, f64::from(rank)]))?;
            assert_eq!(told, [0.1, 0.0]);
            Ok(heard)
        });
        let expected: Vec<Vec<u8>> = (0..20)
            .flat_map(|round| {
                let answers = (0..size).map(move |rank| vec![round; rank]);
                std::iter::once(vec![round, 7]).chain(answers)
            })
            .collect();
        for heard in heard {
            assert_eq!(heard.expect("a group"), expected);
        }
    }
}

#[test]
fn long_messages_arrive_in_parts() {
    const LENGTH: usize = (9 << 20) + 1;
    let arrived = group(2, |group| {
        let long: Vec<u8> = (0..LENGTH).map(|at| (at * 31 % 251) as u8 ^ group.rank() as u8).collect();
        let gathered = group.gather("a long message", long.clone())?;
        if let Some(gathered) = gathered {
            assert!(gathered[0] == long && gathered[1].iter().zip(&long).all(|(a, b)| *a == b ^ 1));
        }
        let heard = group.broadcast("a long word", long)?;
        assert_eq!((heard.len(), heard[1]), (LENGTH, 31));
        Ok(group.traffic())
    });
    let traffic: Vec<_> = arrived.into_iter().map(|traffic| traffic.expect("arrived")).collect();
    // Once here, once there; three parts each with a seal and a number of parts.
    let bytes = (LENGTH + 3 * (32 + 4)) as u64;
    for traffic in traffic {
        assert_eq!((traffic.sent, traffic.received), (1, 1));
        assert_eq!((traffic.bytes_sent, traffic.bytes_received), (bytes, bytes));
    }
}

#[test]
fn one_rank_alone_speaks_to_itself() {
    let group = Group::alone();
    assert!(group.leads() && group.size() == 1);
    assert_eq!(group.broadcast("a word", vec![1]).expect("heard"), [1]);
    assert_eq!(group.all_gather("answers", vec![2]).expect("heard"), [[2]]);
    group.agree("facts", &facts()).expect("agreed");
    group.barrier("here").expect("all");
    group.leave(None);
}

#[test]
fn ranks_that_differ_are_named_everywhere() {
    let joined = ranks(3, |rank, port| {
        let mut facts = facts();
        if rank == 2 {
            facts[0].value = "b".to_owned();
        }
        Group::join(&launch(rank, 3, port), &facts, Work::unstoppable()).map(drop)
    });
    for error in joined {
        let error = error.expect_err("they differ");
        assert!(error.is_usage());
        let expected = "ranks differ in configuration: rank 2 has b, rank 0 has a";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
    let agreed = group(3, |group| {
        let name = if group.rank() == 1 { "m2" } else { "m1" };
        group.agree("models", &[Fact::new("target", name)])
    });
    for error in agreed {
        let error = error.expect_err("they differ").to_string();
        assert_eq!(error, "ranks differ in target: rank 1 has m2, rank 0 has m1");
    }
}

#[test]
fn ranks_that_count_each_other_otherwise_are_named() {
    let joined = ranks(2, |rank, port| {
        let size = if rank == 1 { 4 } else { 2 };
        Group::join(&launch(rank, size, port), &facts(), Work::unstoppable()).map(drop)
    });
    for error in joined {
        let error = error.expect_err("another number");
        assert!(error.is_usage() && error.to_string().contains("ranks differ in WORLD_SIZE"), "{error}");
    }
}

#[test]
fn what_was_left_word_of_is_found_again() {
    let found = group(2, |group| {
        let before = group.recall("place")?;
        group.remember("place", format!("of rank {}", group.rank()).as_bytes())?;
        group.barrier("noted")?;
        Ok((before, group.recall("place")?))
    });
    for found in found {
        assert_eq!(found.expect("a group"), (None, Some(b"of rank 0".to_vec())));
    }
}

#[test]
fn a_wrong_secret_is_named_on_every_rank() {
    let joined = ranks(3, |rank, port| {
        let secret: &[u8] = if rank == 1 { b"another secret..." } else { b"the same secret.." };
        let launch = Launch { secret: secret.to_vec(), ..launch(rank, 3, port) };
        Group::join(&launch, &facts(), Work::unstoppable()).map(drop)
    });
    for (rank, error) in joined.into_iter().enumerate() {
        let error = error.expect_err("another secret");
        assert!(error.is_usage());
        let who = usize::from(rank != 1);
        assert!(error.to_string().contains(&format!("rank {who} has another secret")), "{rank}: {error}");
    }
    let joined = ranks(2, |rank, port| {
        let launch = Launch { secret: b"the same secret..".to_vec(), ..launch(rank, 2, port) };
        let group = Group::join(&launch, &facts(), Work::unstoppable())?;
        group.barrier("here")
    });
    assert!(joined.iter().all(Result::is_ok), "{joined:?}");
}

#[test]
fn who_fails_says_why_before_it_goes() {
    for failing in [0, 1] {
        let ends = group(3, |group| {
            if group.rank() == failing {
                return Err(Error::Differs("no room left".to_owned()));
            }
            group.barrier("work")
        });
        for end in ends {
            let error = end.expect_err("one failed");
            assert!(error.is_usage() && error.to_string().ends_with("no room left"), "{error}");
        }
    }
}

#[test]
fn a_wish_to_stop_reaches_all() {
    let ends = ranks(3, |rank, port| {
        let stop = Arc::new(AtomicBool::new(false));
        let wish = Arc::clone(&stop);
        let work = Work { stop: Box::new(move || wish.load(Ordering::Relaxed)), ..Work::unstoppable() };
        let group = Group::join(&launch(rank, 3, port), &facts(), work)?;
        // Rank 2 never comes to the meeting; rank 1 is asked to stop as it waits for the first.
        if rank == 2 {
            std::thread::sleep(Duration::from_secs(1));
            stop.store(true, Ordering::Relaxed);
        }
        let heard = group.broadcast("a word", Vec::new());
        let end =
            if rank == 2 { Err(Error::Stopped) } else { heard.and_then(|_| group.barrier("a meeting")) };
        group.leave(end.as_ref().err().map(|error| error as _));
        end
    });
    for (rank, end) in ends.into_iter().enumerate() {
        let error = end.expect_err("one was asked to stop");
        assert!(error.is_interrupt(), "{rank}: {error}");
    }
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let started = Instant::now();
    let port = free_port();
    let launch = Launch { timeout: Duration::from_secs(2), ..launch(0, 2, port) };
    let error = Group::join(&launch, &facts(), Work::unstoppable()).expect_err("alone").to_string();
    assert_eq!(error, "rank 1 did not join within 2 s");
    let launch = Launch { timeout: Duration::from_secs(2), ..self::launch(1, 2, free_port()) };
    let error = Group::join(&launch, &facts(), Work::unstoppable()).expect_err("no store").to_string();
    assert!(error.starts_with("rank 0, which serves the store of the ranks at localhost:"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_rank_that_lives_and_does_nothing_is_named() {
    let ends = ranks(2, |rank, port| {
        let launch = Launch { timeout: Duration::from_secs(3), ..launch(rank, 2, port) };
        // It lives, and does not get on.
        let work = Work { progress: Box::new(|| 7), ..Work::unstoppable() };
        let group = Group::join(&launch, &facts(), work)?;
        if rank == 1 {
            std::thread::sleep(Duration::from_secs(6));
        }
        let end = group.barrier("a rollout");
        group.leave(end.as_ref().err().map(|error| error as _));
        end
    });
    let messages: Vec<String> = ends.into_iter().map(|end| end.expect_err("late").to_string()).collect();
    let expected = "rank 1 hangs: it lives, but has not got on for 3 s, and others wait (a rollout)";
    assert_eq!(messages[0], expected);
    assert!(messages[1].contains(expected) || messages[1].contains("store"), "{messages:?}");
}

#[test]
fn nobody_is_hurried_who_gets_on() {
    let ends = ranks(3, |rank, port| {
        let launch = Launch { timeout: Duration::from_secs(2), ..launch(rank, 3, port) };
        let work = Work::unstoppable();
        let work = if rank == 2 { Work { progress: Box::new(|| 7), ..work } } else { work };
        let group = Group::join(&launch, &facts(), work)?;
        if rank == 1 {
            std::thread::sleep(Duration::from_secs(6));
        }
        // Rank 2 waits for rank 0, which waits for rank 1, which gets on.
        group.barrier("a long work")
    });
    assert!(ends.iter().all(Result::is_ok), "{ends:?}");
}

#[test]
fn a_busy_rank_learns_that_another_failed() {
    let ends = ranks(3, |rank, port| {
        let told = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&told);
        let work =
            Work { on_loss: Box::new(move || flag.store(true, Ordering::Relaxed)), ..Work::unstoppable() };
        let group = Group::join(&launch(rank, 3, port), &facts(), work)?;
        if rank == 2 {
            group.leave(Some(&Error::Differs("no room left".to_owned())));
            return Ok(());
        }
        // Nobody waits for anybody.
        let begun = Instant::now();
        while !told.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(15) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let lost = group.lost().map_or(Ok(()), Err);
        group.leave(lost.as_ref().err().map(|error| error as _));
        lost
    });
    for (rank, end) in ends.into_iter().take(2).enumerate() {
        let error = end.expect_err("rank 2 failed").to_string();
        assert_eq!(error, "rank 2 failed: no room left", "{rank}");
    }
}

#[test]
fn a_rank_that_panics_is_named_at_once() {
    for panics in [0, 1] {
        let begun = Instant::now();
        let ends = ranks(2, |rank, port| {
            let work = || {
                let group = Group::join(&launch(rank, 2, port), &facts(), Work::unstoppable())?;
                assert!(rank != panics, "an invariant that does not hold");
                let end = group.barrier("a rollout");
                group.leave(end.as_ref().err().map(|error| error as _));
                end
            };
            std::panic::catch_unwind(work).unwrap_or(Ok(()))
        });
        let error = ends[1 - panics].as_ref().expect_err("the other one panicked").to_string();
        assert_eq!(error, format!("rank {panics} failed: it panicked"));
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_rank_that_has_ended_is_not_waited_for() {
    let ends = ranks(2, |rank, port| {
        let group = Group::join(&launch(rank, 2, port), &facts(), Work::unstoppable())?;
        if rank == 1 {
            // What it said before it left counts.
            group.gather("a word", vec![1])?;
            return Ok(());
        }
        group.gather("a word", Vec::new())?;
        group.barrier("a rollout")
    });
    let error = ends[0].as_ref().expect_err("nobody is there").to_string();
    assert_eq!(error, "rank 1 failed: it has ended, and others wait (a rollout)");
}

/// Passes on what is said to `port`, until `frozen`: then nothing comes through any more.
fn proxy(port: u16, frozen: &Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let at = listener.local_addr().expect("an address").port();
    let frozen = Arc::clone(frozen);
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.expect("a connection");
            let far = TcpStream::connect(("127.0.0.1", port)).expect("the store");
            let ends = [&near, &far].map(|end| end.try_clone().expect("a socket"));
            let [near_too, far_too] = ends;
            for (mut from, mut to) in [(near, far), (far_too, near_too)] {
                let frozen = Arc::clone(&frozen);
                std::thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        while frozen.load(Ordering::Relaxed) {
                            std::thread::sleep(Duration::from_millis(50));
                        }
                        if to.write_all(&bytes[..count]).is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    at
}

#[test]
fn a_busy_rank_notices_that_the_store_is_cut_off() {
    let frozen = Arc::new(AtomicBool::new(false));
    let ends = ranks(2, |rank, port| {
        let port = if rank == 0 {
            port
        } else {
            // The store has to be there first.
            std::thread::sleep(Duration::from_millis(500));
            proxy(port, &frozen)
        };
        let told = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&told);
        let work =
            Work { on_loss: Box::new(move || flag.store(true, Ordering::Relaxed)), ..Work::unstoppable() };
        let launch = Launch { timeout: Duration::from_secs(5), ..launch(rank, 2, port) };
        let group = Group::join(&launch, &facts(), work)?;
        if rank == 1 {
            frozen.store(true, Ordering::Relaxed);
        }
        let begun = Instant::now();
        while !told.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let lost = group.lost().map_or(Ok(()), Err);
        frozen.store(false, Ordering::Relaxed);
        lost
    });
    let messages: Vec<String> = ends.into_iter().map(|end| end.expect_err("cut off").to_string()).collect();
    assert_eq!(messages[0], "rank 1 is dead or stopped: no sign of life for 5 s");
    assert!(messages[1].ends_with("is gone or cannot be reached: no answer for 7 s"), "{messages:?}");
}

#[test]
fn a_rank_that_is_asked_to_stop_before_all_have_come_tells_the_others() {
    let ends = ranks(3, |rank, port| {
        // Rank 2 comes late, and is waited for.
        if rank == 2 {
            std::thread::sleep(Duration::from_secs(3));
        }
        let begun = Instant::now();
        let stop = move || rank == 1 && begun.elapsed() > Duration::from_secs(1);
        let work = Work { stop: Box::new(stop), ..Work::unstoppable() };
        Group::join(&launch(rank, 3, port), &facts(), work).map(drop)
    });
    for end in ends {
        let error = end.expect_err("one was asked to stop");
        assert!(error.is_interrupt(), "{error}");
    }
}

#[test]
fn a_second_process_of_a_rank_does_not_disturb_the_first() {
    let ends = ranks(3, |place, port| {
        // The third process says that it is rank 1, too.
        let rank = place.min(1);
        if place == 2 {
            std::thread::sleep(Duration::from_secs(2));
            let launch = Launch { timeout: Duration::from_secs(4), ..launch(rank, 2, port) };
            return Group::join(&launch, &facts(), Work::unstoppable()).map(drop);
        }
        let group = Group::join(&launch(rank, 2, port), &facts(), Work::unstoppable())?;
        for _ in 0..8 {
            std::thread::sleep(Duration::from_secs(1));
            group.barrier("work")?;
        }
        Ok(())
    });
    assert!(ends[..2].iter().all(Result::is_ok), "{ends:?}");
    assert!(ends[2].is_err());
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let error = Group::join(&launch(0, 2, port), &facts(), Work::unstoppable()).expect_err("taken");
    assert!(error.is_usage());
    assert!(error.to_string().starts_with(&format!("MASTER_PORT: {port} is in use")), "{error}");
}

#[test]
fn without_a_secret_only_this_machine_reaches_the_store() {
    let port = free_port();
    let joined = std::thread::spawn(move || {
        let launch = Launch { timeout: Duration::from_secs(2), ..launch(0, 2, port) };
        Group::join(&launch, &facts(), Work::unstoppable()).map(drop)
    });
    // An address of this machine that is not the loopback device's own one.
    let mut reached = false;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(50));
        reached |= std::net::TcpStream::connect(("127.0.0.2", port)).is_ok();
    }
    assert!(!reached, "the store listens everywhere");
    joined.join().expect("no panic").expect_err("alone");
}
