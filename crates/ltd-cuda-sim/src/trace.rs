//! What a program did with the devices of [`crate::Runtime`].

use std::io;
use std::path::Path;

/// Something that a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A kernel was launched, or a function of a library called that launches some.
    Launch(String),
    /// One of these, a copy or what sets bytes was captured, and not done.
    Captured(String),
    /// A graph of so many of them was launched.
    Graph(u64),
    /// Grid, block and device addresses of the launch before, if they are traced.
    With(String),
    /// Bytes were copied from the host to a device.
    ToDevice(u64),
    /// Bytes were copied from a device to the host.
    ToHost(u64),
    /// Bytes were copied between two devices.
    BetweenDevices(u64),
    /// Bytes were copied within a device.
    WithinDevice(u64),
    /// Bytes were set.
    Fill(u64),
    /// Device memory was allocated.
    Malloc(u64),
    /// Pinned memory of the host was allocated.
    MallocHost(u64),
    /// A device got a context, for which it needs memory.
    Context(u64),
    /// The host waited.
    Wait(Wait),
}

/// For what the host waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// All that a device does.
    Device,
    /// A stream.
    Stream,
    /// An event.
    Event,
    /// A copy that returns when it is done.
    Copy,
}

/// The events of a file, in their order.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn read_trace(path: &Path) -> io::Result<Vec<Event>> {
    let text = std::fs::read_to_string(path)?;
    let unknown = |line: &str| io::Error::other(format!("{}: unknown event `{line}`", path.display()));
    text.lines().map(|line| event(line).ok_or_else(|| unknown(line))).collect()
}

fn event(line: &str) -> Option<Event> {
    let (kind, what) = line.split_once(' ')?;
    let bytes = || what.parse().ok();
    Some(match kind {
        "launch" => Event::Launch(what.to_owned()),
        "captured" => Event::Captured(what.to_owned()),
        "graph" => Event::Graph(bytes()?),
        "with" => Event::With(what.to_owned()),
        "to_device" => Event::ToDevice(bytes()?),
        "to_host" => Event::ToHost(bytes()?),
        "between_devices" => Event::BetweenDevices(bytes()?),
        "within_device" => Event::WithinDevice(bytes()?),
        "fill" => Event::Fill(bytes()?),
        "malloc" => Event::Malloc(bytes()?),
        "malloc_host" => Event::MallocHost(bytes()?),
        "context" => Event::Context(bytes()?),
        "wait" => Event::Wait(match what {
            "device" => Wait::Device,
            "stream" => Wait::Stream,
            "event" => Wait::Event,
            "copy" => Wait::Copy,
            _ => return None,
        }),
        _ => return None,
    })
}

/// How often something was done between two waits for the device: what the engine times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phase {
    /// Kernels, one after another.
    pub launches: usize,
    /// Graphs.
    pub graphs: usize,
    /// Copies to a device.
    pub to_device: usize,
    /// Copies to the host.
    pub to_host: usize,
    /// Copies between devices.
    pub between: usize,
    /// Memory that was set.
    pub fills: usize,
    /// Waits for a stream, an event or a copy.
    pub waits: usize,
    /// Allocations on a device.
    pub allocations: usize,
}

impl Phase {
    fn of(events: &[Event]) -> Self {
        let count = |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
        Self {
            launches: count(|event| matches!(event, Event::Launch(_))),
            graphs: count(|event| matches!(event, Event::Graph(_))),
            to_device: count(|event| matches!(event, Event::ToDevice(_))),
            to_host: count(|event| matches!(event, Event::ToHost(_))),
            between: count(|event| matches!(event, Event::BetweenDevices(_))),
            fills: count(|event| matches!(event, Event::Fill(_))),
            waits: count(|event| matches!(event, Event::Wait(_))),
            allocations: count(|event| matches!(event, Event::Malloc(_))),
        }
    }
}

/// What was timed: a wait for the device begins a phase, the next one ends it, the next one begins
/// another.
pub fn phases(events: &[Event]) -> Vec<Phase> {
    phases_on(1, events)
}

/// What was timed on several devices: each wait is one for each of them.
pub fn phases_on(devices: usize, events: &[Event]) -> Vec<Phase> {
    let is_boundary = |event: &Event| *event == Event::Wait(Wait::Device);
    events.split(is_boundary).skip(devices).step_by(2 * devices).map(Phase::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_what_is_between_every_other_pair_of_waits() {
        let device = Event::Wait(Wait::Device);
        let launch = || Event::Launch("kernel".to_owned());
        let events = [
            launch(),
            device.clone(),
            Event::ToDevice(8),
            launch(),
            launch(),
            Event::ToHost(8),
            Event::Wait(Wait::Stream),
            device.clone(),
            launch(),
            device.clone(),
            Event::Malloc(512),
            Event::Fill(4),
            device,
            launch(),
        ];
        let first = Phase { launches: 2, to_device: 1, to_host: 1, waits: 1, ..Phase::default() };
        let second = Phase { fills: 1, allocations: 1, ..Phase::default() };
        assert_eq!(phases(&events), [first, second]);
    }

    #[test]
    fn lines_are_events_and_anything_else_is_named() {
        let folder = std::env::temp_dir().join(format!("ltd-trace-{}", std::process::id()));
        std::fs::write(&folder, "launch a b\nto_host 12\nwait stream\n").expect("written");
        let events = read_trace(&folder).expect("events");
        let expected = [Event::Launch("a b".to_owned()), Event::ToHost(12), Event::Wait(Wait::Stream)];
        assert_eq!(events, expected);
        std::fs::write(&folder, "wait nothing\n").expect("written");
        let problem = read_trace(&folder).expect_err("no event").to_string();
        assert!(problem.ends_with("unknown event `wait nothing`"), "{problem}");
        std::fs::remove_file(&folder).expect("removed");
    }
}
