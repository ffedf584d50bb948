//! The decision processes: on scripted cycles, and on the tiny pair.

mod live;
mod replay;
mod scripted;
