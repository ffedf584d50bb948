//! The thread that speaks to the store.
//!
//! A call into the store cannot be taken back, and its server may be stopped or gone: whoever calls
//! waits for an answer no longer than it wants to. Between calls the thread gives a sign of life,
//! whatever the rank is busy with.

use std::net::TcpListener;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use crate::store::Store;

/// Time between signs of life.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

/// What is asked of the store.
pub(crate) enum Ask {
    /// Sets a key.
    Set(String, Vec<u8>),
    /// Sets a key that has no value yet.
    SetOnce(String, Vec<u8>),
    /// The value that a key has, or gets within some time.
    Await(String, Duration),
    /// Removes a key.
    Delete(String),
    /// From now on gives signs of life, and looks for those of others.
    Watch(Watch),
}

/// What is done once per [`BEAT`], whatever the rank is busy with.
pub(crate) struct Watch {
    /// Where its signs of life go.
    pub(crate) beat: String,
    /// The value of one, by its number.
    pub(crate) sign: Box<dyn Fn(u64) -> Vec<u8> + Send>,
    /// Looks for others.
    pub(crate) look: Box<dyn FnMut(&mut Look) + Send>,
}

/// Gives the value of a key, or what is wrong with the store.
pub(crate) type Look<'s> = dyn FnMut(&str) -> Answer + 's;

/// A value, if there is one, or what is wrong with the store.
pub(crate) type Answer = Result<Option<Vec<u8>>, String>;

/// Asks the store.
pub(crate) struct Client {
    asks: mpsc::Sender<(Ask, SyncSender<Answer>)>,
    /// How long the store may take to answer.
    patience: Duration,
}

impl Client {
    /// Connects within `timeout`.
    pub(crate) fn open(
        host: &str,
        port: u16,
        listener: Option<TcpListener>,
        timeout: Duration,
        patience: Duration,
    ) -> Result<Self, String> {
        let (asks, asked) = mpsc::channel::<(Ask, SyncSender<Answer>)>();
        let (opened, open) = mpsc::sync_channel(1);
        let host = host.to_owned();
        let serve = move || {
            let mut store = match Store::open(&host, port, listener, timeout) {
                Ok(store) => store,
                Err(problem) => {
                    let _ = opened.send(Err(problem));
                    return;
                }
            };
            let _ = opened.send(Ok(()));
            let (mut beats, mut last, mut watch) = (0u64, None::<Instant>, None::<Watch>);
            loop {
                if let Some(Watch { beat, sign, look }) = &mut watch
                    && last.is_none_or(|last| last.elapsed() >= BEAT)
                {
                    beats += 1;
                    let said = store.set(beat, &sign(beats));
                    look(&mut |key: &str| said.clone().and_then(|()| store.get(key)));
                    last = Some(Instant::now());
                }
                match asked.recv_timeout(BEAT) {
                    Ok((Ask::Watch(wanted), reply)) => {
                        watch = Some(wanted);
                        let _ = reply.send(Ok(None));
                    }
                    Ok((ask, reply)) => _ = reply.send(answer(&mut store, ask)),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let spawned = std::thread::Builder::new().name("ranks".to_owned()).spawn(serve);
        spawned.map_err(|error| error.to_string())?;
        // LibTorch keeps its own time, and may be a little late.
        match open.recv_timeout(timeout + patience) {
            Ok(opened) => opened.map(|()| Self { asks, patience }),
            Err(_) => Err("does not answer".to_owned()),
        }
    }

    /// Asks the store.
    pub(crate) fn ask(&self, ask: Ask) -> Answer {
        let patience = match &ask {
            Ask::Await(_, timeout) => *timeout + self.patience,
            _ => self.patience,
        };
        let (reply, answer) = mpsc::sync_channel(1);
        let sent = self.asks.send((ask, reply));
        sent.map_err(|_| "is closed".to_owned())?;
        answer
            .recv_timeout(patience)
            .unwrap_or_else(|_| Err(format!("does not answer within {} s", patience.as_secs())))
    }
}

fn answer(store: &mut Store, ask: Ask) -> Answer {
    match ask {
        Ask::Set(key, value) => store.set(&key, &value).map(|()| None),
        Ask::SetOnce(key, value) => store.set_once(&key, &value).map(|()| None),
        Ask::Await(key, timeout) => {
            if store.wait(&key, timeout)? {
                store.get(&key)
            } else {
                Ok(None)
            }
        }
        Ask::Delete(key) => store.delete(&key).map(|()| None),
        Ask::Watch(_) => unreachable!("invariant: the thread takes it itself"),
    }
}
