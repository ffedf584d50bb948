//! Ranks as threads of one process, with a real store between them.

mod group;
