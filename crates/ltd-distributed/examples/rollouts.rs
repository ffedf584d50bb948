//! What a rollout costs in the store: every rank sends its steps to the first one, which sends the
//! policy to all. Ranks are threads of this process, the store is on the loopback device.
//!
//! ```console
//! $ cargo run --release -p ltd-distributed --example rollouts -- 2,4,8,16,32 70000 40000
//! ```
//!
//! The arguments: numbers of ranks, bytes of a rank's steps, bytes of the policy.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use ltd_distributed::{Group, Launch, Result, Work};

const ROLLOUTS: usize = 40;

#[expect(clippy::print_stdout, reason = "a table for people")]
fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument =
        |place: usize, otherwise: &str| arguments.get(place).cloned().unwrap_or_else(|| otherwise.to_owned());
    let (steps, policy) = (argument(1, "70000"), argument(2, "40000"));
    let [steps, policy] = [steps, policy].map(|bytes| bytes.parse().expect("a number of bytes"));
    println!("ranks  ms per rollout (median)  messages  bytes at rank 0");
    for ranks in argument(0, "2,4,8,16,32").split(',') {
        let ranks = ranks.parse().expect("a number of ranks");
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        let port = port.expect("a free port").port();
        let handles: Vec<_> = (0..ranks)
            .map(|rank| std::thread::spawn(move || take_part(rank, ranks, port, steps, policy)))
            .collect();
        let mut results = handles.into_iter().map(|handle| handle.join().expect("no panic"));
        let (mut times, messages, bytes) = results.next().expect("a rank")?;
        results.try_for_each(|result| result.map(drop))?;
        times.sort_unstable();
        let median = times[times.len() / 2].as_secs_f64() * 1e3;
        println!("{ranks:5}  {median:24.2}  {messages:8}  {bytes:15}");
    }
    Ok(())
}

/// Times of the rollouts, and messages and bytes of one.
fn take_part(
    rank: usize,
    world_size: usize,
    port: u16,
    steps: usize,
    policy: usize,
) -> Result<(Vec<Duration>, u64, u64)> {
    let launch = Launch {
        rank,
        world_size,
        local_rank: rank,
        local_world_size: world_size,
        host: "127.0.0.1".to_owned(),
        port,
        served: false,
        run_id: String::new(),
        restarts: 0,
        secret: Vec::new(),
        timeout: Duration::from_secs(300),
    };
    let group = Group::join(&launch, &[], Work::unstoppable())?;
    let (mut times, before) = (Vec::new(), group.traffic());
    for _ in 0..ROLLOUTS {
        let begun = Instant::now();
        group.broadcast("a policy", if group.leads() { vec![1; policy] } else { Vec::new() })?;
        group.gather("steps", vec![2; steps])?;
        times.push(begun.elapsed());
    }
    let after = group.traffic();
    let messages = after.sent + after.received - before.sent - before.received;
    let bytes = after.bytes_sent + after.bytes_received - before.bytes_sent - before.bytes_received;
    group.leave(None);
    Ok((times, messages / ROLLOUTS as u64, bytes / ROLLOUTS as u64))
}
