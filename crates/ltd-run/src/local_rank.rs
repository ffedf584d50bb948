//! Which of the processes of its machine this one is, where a launcher started several: each has a
//! card of its own.

use ltd_engine::{Devices, EngineConfig};

use crate::Result;
use crate::recording::Variables;

/// The number of this process among several of its machine, from 0: `LOCAL_RANK` of
/// `LOCAL_WORLD_SIZE`, as torchrun sets them. None without them, and of one process.
///
/// # Errors
/// If they make no sense.
pub fn local_rank() -> Result<Option<usize>> {
    of(&|name| std::env::var(name).ok())
}

fn of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<usize>> {
    let place = Variables(variable).pair("LOCAL_RANK", "LOCAL_WORLD_SIZE", "")?;
    Ok(place.filter(|place| place.count > 1).map(|place| place.index))
}

/// Whether each process of a machine has a device of its own: `cuda` is the card of its number.
pub fn has_own_device(engine: &EngineConfig) -> bool {
    engine.device == "cuda" && engine.devices == Devices::default()
}

/// The engine's configuration with the card of a process, if each has its own.
pub fn on_own_device(mut engine: EngineConfig, local_rank: Option<usize>) -> EngineConfig {
    if let Some(rank) = local_rank.filter(|_| has_own_device(&engine)) {
        engine.device = format!("cuda:{rank}");
    }
    engine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_of_a_machine_has_its_card() {
        for (rank, size, expected) in [
            (None, None, Ok(None)),
            (Some("0"), Some("1"), Ok(None)),
            (
                Some("3"),
                None,
                Err("LOCAL_WORLD_SIZE: is not set, expected a number, since LOCAL_RANK is set"),
            ),
            (Some("3"), Some("4"), Ok(Some(3))),
            (Some("4"), Some("4"), Err("LOCAL_RANK: is 4, expected a number below 4")),
            (Some("a"), Some("4"), Err("LOCAL_RANK: is \"a\", expected a whole number")),
        ] {
            let found = of(&|name| if name == "LOCAL_RANK" { rank } else { size }.map(str::to_owned));
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{rank:?} of {size:?}"),
                (Err(found), Err(expected)) => assert!(found.to_string().contains(expected), "{found}"),
                (found, expected) => panic!("{found:?}, expected {expected:?}"),
            }
        }
        let on =
            |device: &str| EngineConfig { device: device.to_owned(), ..EngineConfig::new("target", "draft") };
        assert_eq!(on_own_device(on("cuda"), Some(3)).device, "cuda:3");
        for (device, rank) in [("cuda", None), ("cuda:1", Some(3)), ("cpu", Some(3))] {
            assert_eq!(on_own_device(on(device), rank).device, device);
        }
    }
}
