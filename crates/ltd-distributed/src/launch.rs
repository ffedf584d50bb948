//! What a launcher tells a process of its rank.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngCore;

use crate::{Error, Result};

/// Least bytes of a secret.
const LEAST_SECRET: usize = 16;
/// How long ranks wait for each other where nothing else is said: that of c10d.
const TIMEOUT: Duration = Duration::from_secs(1800);
/// Signs of life come every second or two.
const LEAST_TIMEOUT: Duration = Duration::from_secs(5);

/// Who a process is among the ranks of a run, and where they meet; what `torchrun` puts into the
/// environment (<https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables>).
#[derive(Clone, PartialEq, Eq)]
pub struct Launch {
    /// `RANK`, below `world_size`.
    pub rank: usize,
    /// `WORLD_SIZE`, at least 2: one rank needs no launcher.
    pub world_size: usize,
    /// `LOCAL_RANK`: which of its machine's.
    pub local_rank: usize,
    /// `LOCAL_WORLD_SIZE`: ranks of this machine.
    pub local_world_size: usize,
    /// `MASTER_ADDR`: where the store is.
    pub host: String,
    /// `MASTER_PORT`.
    pub port: u16,
    /// Whether the launcher serves the store (`TORCHELASTIC_USE_AGENT_STORE`); else rank 0 does.
    pub served: bool,
    /// `TORCHELASTIC_RUN_ID`.
    pub run_id: String,
    /// How often the launcher started the ranks again (`TORCHELASTIC_RESTART_COUNT`).
    pub restarts: usize,
    /// What is in the file that `LTD_SECRET_FILE` names. Without one, what this user's processes on
    /// this machine share if the launcher serves the store, which others can reach; else nothing.
    pub secret: Vec<u8>,
    /// How long ranks wait for each other (`LTD_TIMEOUT`, in seconds).
    pub timeout: Duration,
}

impl std::fmt::Debug for Launch {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { rank, world_size, host, port, .. } = self;
        write!(f, "rank {rank} of {world_size} at {host}:{port}")
    }
}

impl Launch {
    /// What this process's environment says; none without a launcher, and of a single rank.
    ///
    /// # Errors
    /// If variables are missing, contradict each other, or ask for what needs a secret.
    pub fn from_environment() -> Result<Option<Self>> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// The same of an environment in which `get` looks names up.
    ///
    /// # Errors
    /// As there.
    pub fn read(get: impl Fn(&'static str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &'static str| -> Result<Option<usize>> {
            let parse = |text: String| {
                let parsed = text.trim().parse();
                parsed.map_err(|_| wrong(name, format!("is `{text}`, expected a whole number from 0 on")))
            };
            get(name).map(parse).transpose()
        };
        let (rank, world_size) = match (number("RANK")?, number("WORLD_SIZE")?) {
            (None, None) => return Ok(None),
            (Some(rank), Some(world_size)) => (rank, world_size),
            (Some(_), None) => return Err(wrong("WORLD_SIZE", "is missing, but RANK is set".to_owned())),
            (None, Some(_)) => return Err(wrong("RANK", "is missing, but WORLD_SIZE is set".to_owned())),
        };
        if rank >= world_size {
            return Err(wrong("RANK", format!("is {rank}, must be below WORLD_SIZE, which is {world_size}")));
        }
        if world_size == 1 {
            return Ok(None);
        }
        let needed = |name: &'static str| {
            get(name)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| wrong(name, format!("is missing: {world_size} ranks need a place to meet")))
        };
        let (host, port) = (needed("MASTER_ADDR")?, needed("MASTER_PORT")?);
        let port = port.trim().parse().ok().filter(|&port| port > 0);
        let port = port.ok_or_else(|| wrong("MASTER_PORT", "must be a port, 1 to 65535".to_owned()))?;
        let local = |name: &'static str, otherwise: usize| Ok::<_, Error>(number(name)?.unwrap_or(otherwise));
        let local_world_size = local("LOCAL_WORLD_SIZE", world_size)?;
        let local_rank = local("LOCAL_RANK", rank % local_world_size.max(1))?;
        if local_world_size == 0 || local_world_size > world_size {
            let problem = format!("is {local_world_size}, must be 1 to WORLD_SIZE, which is {world_size}");
            return Err(wrong("LOCAL_WORLD_SIZE", problem));
        }
        if local_rank >= local_world_size {
            let problem =
                format!("is {local_rank}, must be below LOCAL_WORLD_SIZE, which is {local_world_size}");
            return Err(wrong("LOCAL_RANK", problem));
        }
        let served =
            get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|flag| flag.eq_ignore_ascii_case("true"));
        let secret = match get("LTD_SECRET_FILE").filter(|path| !path.is_empty()) {
            Some(path) => read_secret(Path::new(&path))?,
            None if local_world_size < world_size => {
                let problem = format!(
                    "is not set: only {local_world_size} of {world_size} ranks are on this machine, and \
                     ranks on several need a shared secret (a file of at least {LEAST_SECRET} random bytes)"
                );
                return Err(wrong("LTD_SECRET_FILE", problem));
            }
            None if served => secret_of_machine()?,
            None => Vec::new(),
        };
        let timeout = match number("LTD_TIMEOUT")? {
            Some(seconds) if (seconds as u64) < LEAST_TIMEOUT.as_secs() => {
                let least = LEAST_TIMEOUT.as_secs();
                return Err(wrong("LTD_TIMEOUT", format!("is {seconds}, must be at least {least} seconds")));
            }
            Some(seconds) => Duration::from_secs(seconds as u64),
            None => TIMEOUT,
        };
        Ok(Some(Self {
            rank,
            world_size,
            local_rank,
            local_world_size,
            host,
            port,
            served,
            run_id: get("TORCHELASTIC_RUN_ID").unwrap_or_default(),
            restarts: number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0),
            secret,
            timeout,
        }))
    }

    /// Whether all ranks are on this machine.
    pub fn is_on_one_machine(&self) -> bool {
        self.local_world_size == self.world_size
    }

    /// Who serves the store.
    pub(crate) fn server(&self) -> &'static str {
        if self.served { "the launcher" } else { "rank 0" }
    }

    /// Where the store is, in words.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The host to connect to: without a secret, a store of our own is on the loopback device.
    pub(crate) fn meeting_host(&self) -> &str {
        if self.served || !self.secret.is_empty() { &self.host } else { "127.0.0.1" }
    }

    /// The socket on which rank 0 serves the store; nothing for the others, and where the launcher
    /// does. Without a secret nobody but this machine reaches it.
    pub(crate) fn listener(&self) -> Result<Option<TcpListener>> {
        if self.served || self.rank > 0 {
            return Ok(None);
        }
        let cannot = |error: std::io::Error| {
            let problem = match error.kind() {
                ErrorKind::AddrInUse => {
                    "is in use: another run meets there, or one that just ended; choose another".to_owned()
                }
                _ => format!("cannot be listened at: {error}"),
            };
            wrong("MASTER_PORT", format!("{} {problem}", self.port))
        };
        if self.secret.is_empty() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port));
            return listener.map(Some).map_err(cannot);
        }
        // At all of its addresses: a machine's own name often stands for its loopback device, and
        // that of a service for an address that it does not have.
        let everywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        let mut last = None;
        for address in everywhere {
            match TcpListener::bind((address, self.port)) {
                Ok(listener) => return Ok(Some(listener)),
                Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(cannot(error)),
                Err(error) => last = Some(error),
            }
        }
        Err(cannot(last.expect("invariant: there was an address")))
    }
}

fn wrong(variable: &'static str, problem: String) -> Error {
    Error::Environment { variable, problem }
}

/// The secret of this user's processes on this machine. The first one that asks makes it.
fn secret_of_machine() -> Result<Vec<u8>> {
    let folder = std::env::temp_dir();
    let find = || -> std::io::Result<PathBuf> {
        // Nobody else can read it from its beginning on.
        let mut own = tempfile::NamedTempFile::new_in(&folder)?;
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        secret.iter().try_for_each(|byte| write!(own, "{byte:02x}"))?;
        let user = own.as_file().metadata()?.uid();
        let path = folder.join(format!("ltd-secret-{user}"));
        match own.persist_noclobber(&path) {
            Err(error) if error.error.kind() != ErrorKind::AlreadyExists => return Err(error.error),
            _ => {}
        }
        let found = std::fs::symlink_metadata(&path)?;
        if !found.is_file() || found.uid() != user || found.mode() & 0o077 != 0 {
            return Err(std::io::Error::other(format!("{} is not this user's alone", path.display())));
        }
        Ok(path)
    };
    let path = find().map_err(|error| {
        let folder = folder.display();
        wrong("LTD_SECRET_FILE", format!("is not set, and no secret can be kept in {folder}: {error}"))
    })?;
    read_secret(&path)
}

fn read_secret(path: &Path) -> Result<Vec<u8>> {
    let problem = |problem: String| wrong("LTD_SECRET_FILE", format!("{}: {problem}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
    // Whoever wrote it with an editor or `echo` meant no line break.
    let secret = bytes.trim_ascii_end();
    if secret.len() < LEAST_SECRET {
        let found = secret.len();
        return Err(problem(format!("has {found} bytes, a secret has at least {LEAST_SECRET}")));
    }
    Ok(secret.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: [(&str, &str); 4] =
        [("RANK", "1"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "29500")];

    fn read(changes: &[(&'static str, &'static str)]) -> Result<Option<Launch>> {
        Launch::read(|name| {
            let all = changes.iter().chain(&BASE);
            let found = all.into_iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned()).filter(|value| value != "-")
        })
    }

    #[test]
    fn an_environment_says_who_a_process_is() {
        let by_hand = read(&[]).expect("an environment").expect("ranks");
        assert_eq!((by_hand.rank, by_hand.world_size), (1, 4));
        assert_eq!((by_hand.local_rank, by_hand.local_world_size), (1, 4), "one machine unless told");
        assert!(by_hand.is_on_one_machine() && !by_hand.served && by_hand.secret.is_empty());
        assert_eq!((by_hand.restarts, by_hand.timeout), (0, TIMEOUT));
        let torchrun = [
            ("LOCAL_RANK", "0"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "3"),
            ("LTD_TIMEOUT", "60"),
        ];
        let launched = read(&torchrun).expect("an environment").expect("ranks");
        assert_eq!((launched.local_rank, launched.restarts, launched.served), (0, 3, true));
        assert_eq!(launched.timeout, Duration::from_secs(60));
        // Others reach the launcher's store.
        let again = read(&torchrun).expect("an environment").expect("ranks");
        assert!(launched.secret.len() >= LEAST_SECRET && launched.secret == again.secret);
        assert_eq!(read(&[("RANK", "-"), ("WORLD_SIZE", "-")]).expect("nothing"), None);
        assert_eq!(read(&[("RANK", "0"), ("WORLD_SIZE", "1")]).expect("one rank"), None);
    }

    #[test]
    fn ranks_of_other_machines_reach_the_store_and_nobody_without_a_secret_does() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut launch = Launch { rank: 0, port, ..read(&[]).expect("an environment").expect("ranks") };
        let address = |launch: &Launch| {
            let listener = launch.listener().expect("a free port").expect("rank 0 serves");
            listener.local_addr().expect("an address").ip()
        };
        assert_eq!(address(&launch), IpAddr::V4(Ipv4Addr::LOCALHOST));
        // Though its name stands for the loopback device.
        launch.secret = b"a secret of many bytes".to_vec();
        assert!(address(&launch).is_unspecified());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (changes, expected) in [
            (&[("RANK", "-")][..], "RANK: is missing, but WORLD_SIZE is set"),
            (&[("WORLD_SIZE", "-")], "WORLD_SIZE: is missing, but RANK is set"),
            (&[("RANK", "4")], "RANK: is 4, must be below WORLD_SIZE, which is 4"),
            (&[("RANK", "-1")], "RANK: is `-1`, expected a whole number from 0 on"),
            (&[("MASTER_ADDR", "-")], "MASTER_ADDR: is missing: 4 ranks need a place to meet"),
            (&[("MASTER_PORT", "70000")], "MASTER_PORT: must be a port, 1 to 65535"),
            (&[("MASTER_PORT", "0")], "MASTER_PORT: must be a port, 1 to 65535"),
            (&[("LOCAL_WORLD_SIZE", "5")], "LOCAL_WORLD_SIZE: is 5, must be 1 to WORLD_SIZE, which is 4"),
            (&[("LOCAL_RANK", "4")], "LOCAL_RANK: is 4, must be below LOCAL_WORLD_SIZE, which is 4"),
            (&[("LOCAL_WORLD_SIZE", "2")], "LTD_SECRET_FILE: is not set: only 2 of 4 ranks are on this"),
            (&[("LTD_SECRET_FILE", "/nowhere")], "LTD_SECRET_FILE: /nowhere: No such file"),
            (&[("LTD_SECRET_FILE", "/dev/null")], "LTD_SECRET_FILE: /dev/null: has 0 bytes, a secret has"),
            (&[("LTD_TIMEOUT", "4")], "LTD_TIMEOUT: is 4, must be at least 5 seconds"),
        ] {
            let error = read(changes).expect_err("nonsense");
            assert!(error.is_usage());
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}
