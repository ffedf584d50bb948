//! Progress on a terminal as bars, elsewhere as plain lines.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ltd_console::note;

/// Time between plain lines of one task.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Time after which the pace of a task says how long the rest will take.
const SETTLED: Duration = Duration::from_secs(2);

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bars that are redrawn.
    Bars,
    /// A line now and then.
    Lines,
    /// Nowhere.
    Silent,
}

impl Progress {
    /// Bars if standard error is a terminal, else lines.
    pub fn detect() -> Self {
        if std::io::stderr().is_terminal() { Self::Bars } else { Self::Lines }
    }

    /// A line for the user.
    pub fn say(self, line: &str) {
        if self != Self::Silent {
            note!("{line}");
        }
    }

    /// Starts a task of `total` units.
    pub fn task(self, name: &str, total: usize) -> Task {
        let target =
            if self == Self::Bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{prefix:<12} {bar:24} {pos}/{len} {wide_msg}")
            .expect("invariant: the template is well formed");
        let bar = ProgressBar::with_draw_target(Some(total as u64), target)
            .with_prefix(name.to_owned())
            .with_style(style);
        let now = Instant::now();
        Task {
            progress: self,
            name: name.to_owned(),
            total,
            bar,
            started: now,
            part_started: now,
            last_line: now,
        }
    }
}

/// Something that takes a while.
pub struct Task {
    progress: Progress,
    name: String,
    total: usize,
    bar: ProgressBar,
    started: Instant,
    part_started: Instant,
    last_line: Instant,
}

impl Task {
    /// Shows how far it is, what there is to tell, and how long the rest will take, which `share`
    /// (0..=1, the part done since the task or its last part began) tells.
    pub fn update(&mut self, position: usize, share: f64, message: &str) {
        let elapsed = self.part_started.elapsed();
        let rest = Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - share).max(0.0) / share).ok();
        // Too early to tell.
        let rest = rest.filter(|_| elapsed >= SETTLED);
        let eta = rest.map_or_else(String::new, |rest| format!("  ETA {}", minutes_and_seconds(rest)));
        self.bar.set_position(position as u64);
        self.bar.set_message(format!("{message}{eta}"));
        if self.progress == Progress::Lines && self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            self.progress.say(&format!("{}  {position}/{}  {message}{eta}", self.name, self.total));
        }
    }

    /// There is more, or less, to do than was thought.
    pub fn set_total(&mut self, total: usize) {
        self.total = total;
        self.bar.set_length(total as u64);
    }

    /// Begins another part of the work, whose share is told from now on.
    pub fn begin_part(&mut self) {
        self.part_started = Instant::now();
    }

    /// Ends the task with a closing line.
    pub fn finish(self, message: &str) {
        self.bar.finish_and_clear();
        let elapsed = minutes_and_seconds(self.started.elapsed());
        self.progress.say(&format!("{}  {message}  ({elapsed})", self.name));
    }
}

fn minutes_and_seconds(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_clocks() {
        let text = |seconds| minutes_and_seconds(Duration::from_secs(seconds));
        assert_eq!([text(7), text(725), text(3_725)], ["0:07", "12:05", "1:02:05"]);
    }
}
