//! The decision processes: on scripted cycles, and on the tiny pair.

mod fuzz;
mod live;
mod oracle;
mod replay;
mod scripted;
mod trace;
