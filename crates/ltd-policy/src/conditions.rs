//! Under what conditions a policy was made, and whether those of a run are others.

use std::fmt::Display;

use crate::SamplingParams;

/// What the worth of a policy's decisions depends on besides the models, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conditions {
    /// How tokens are chosen.
    pub sampling: Option<SamplingParams>,
    /// `cpu`, `cuda` or `cuda:N`; several separated by commas; `+graphs` after it where forwards
    /// are CUDA graphs. What stands behind in parentheses is for people.
    pub device: Option<String>,
    /// Number type of both models.
    pub dtype: Option<String>,
    /// Threads of the CPU kernels.
    pub threads: Option<usize>,
}

impl Conditions {
    /// What is no name of a device or of a number type, or impossible, as `(key, problem)`: for
    /// programs that say where they run in words.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let sampling = self.sampling.and_then(|sampling| sampling.problems().into_iter().next());
        if sampling.is_some() {
            return sampling;
        }
        let is_device =
            |device: &str| kinds(device).iter().all(|kind| ["cpu", "cuda", "cuda+graphs"].contains(&&**kind));
        let device = self.device.as_deref().filter(|device| !is_device(device));
        let dtype = self.dtype.as_deref().filter(|dtype| !["f32", "bf16", "f16"].contains(dtype));
        match (device, dtype) {
            (Some(device), _) => Some(("device", format!("is `{device}`, must be cpu or cuda"))),
            (None, Some(dtype)) => Some(("dtype", format!("is `{dtype}`, must be f32, bf16 or f16"))),
            (None, None) => None,
        }
    }

    /// Decoding in this way on whatever machine: what a trace is of.
    pub fn of_sampling(sampling: SamplingParams) -> Self {
        Self { sampling: Some(sampling), ..Self::default() }
    }

    /// What is different here, in words, as far as both are known. Which of several equal devices
    /// it is makes no difference, and threads only make one on a CPU.
    pub fn differences(&self, here: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut note = |what: &str, made_for: &dyn Display, here: &dyn Display| {
            differences.push(format!("{what} {made_for} (here: {here})"));
        };
        if let (Some(made_for), Some(here)) = (&self.sampling, &here.sampling)
            && !made_for.is_as(here)
        {
            note("sampling", made_for, here);
        }
        if let (Some(made_for), Some(here)) = (&self.device, &here.device)
            && kinds(made_for) != kinds(here)
        {
            note("device", &kinds(made_for).join(", "), &kinds(here).join(", "));
        }
        if let (Some(made_for), Some(here)) = (&self.dtype, &here.dtype)
            && made_for != here
        {
            note("dtype", made_for, here);
        }
        let on_cpu =
            |conditions: &Self| conditions.device.as_deref().is_none_or(|device| kinds(device) == ["cpu"]);
        if let (Some(made_for), Some(threads)) = (self.threads, here.threads)
            && made_for != threads
            && on_cpu(self)
            && on_cpu(here)
        {
            note("threads", &made_for, &threads);
        }
        differences
    }
}

/// Devices without their numbers.
fn kinds(devices: &str) -> Vec<String> {
    let names = devices.split('(').next().unwrap_or_default().split(',');
    let kind = |name: &str| {
        let (name, graphs) = name.split_once('+').unwrap_or((name, ""));
        let separator = if graphs.is_empty() { "" } else { "+" };
        format!("{}{separator}{graphs}", name.split(':').next().unwrap_or_default())
    };
    names.map(|name| kind(name.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions() -> Conditions {
        Conditions {
            sampling: Some(SamplingParams { temperature: 1.0, top_p: 0.9, top_k: Some(40) }),
            device: Some("cpu (AMD EPYC, 2 cores)".to_owned()),
            dtype: Some("bf16".to_owned()),
            threads: Some(2),
        }
    }

    fn differences(change: impl FnOnce(&mut Conditions)) -> Vec<String> {
        let mut here = conditions();
        change(&mut here);
        conditions().differences(&here)
    }

    #[test]
    fn what_is_no_condition_is_named() {
        assert_eq!(conditions().problem(), None);
        assert_eq!(Conditions::default().problem(), None);
        let problem = |change: &dyn Fn(&mut Conditions)| {
            let mut found = conditions();
            change(&mut found);
            found.problem().expect("a problem")
        };
        let (key, text) = problem(&|found| found.dtype = Some("bfloat16".to_owned()));
        assert_eq!((key, text.as_str()), ("dtype", "is `bfloat16`, must be f32, bf16 or f16"));
        assert_eq!(problem(&|found| found.device = Some(String::new())).0, "device");
        let hot = SamplingParams { temperature: f64::NAN, ..SamplingParams::default() };
        assert_eq!(problem(&|found| found.sampling = Some(hot)).0, "temperature");
    }

    #[test]
    fn each_difference_is_named() {
        assert!(differences(|_| ()).is_empty());
        let other = Conditions {
            sampling: Some(SamplingParams::default()),
            device: Some("cpu, cpu".to_owned()),
            dtype: Some("f32".to_owned()),
            threads: Some(4),
        };
        assert_eq!(
            differences(|here| *here = other),
            [
                "sampling temperature 1, top-k 40, top-p 0.9 (here: greedy)",
                "device cpu (here: cpu, cpu)",
                "dtype bf16 (here: f32)",
            ]
        );
        assert_eq!(differences(|here| here.threads = Some(4)), ["threads 2 (here: 4)"]);
        assert_eq!(
            differences(
                |here| here.sampling = Some(SamplingParams { temperature: 1.0, ..SamplingParams::default() })
            ),
            ["sampling temperature 1, top-k 40, top-p 0.9 (here: temperature 1)"]
        );
        assert_eq!(differences(|here| here.device = Some("cuda:0".to_owned())), ["device cpu (here: cuda)"]);
        let on = |device: &str| Conditions { device: Some(device.to_owned()), ..Conditions::default() };
        let with_graphs = on("cuda:0").differences(&on("cuda:0+graphs"));
        assert_eq!(with_graphs, ["device cuda (here: cuda+graphs)"]);
    }

    #[test]
    fn what_makes_no_difference_or_is_not_known_is_none() {
        assert!(Conditions::default().differences(&conditions()).is_empty());
        assert!(conditions().differences(&Conditions::default()).is_empty());
        let cuda = |device: &str, threads| Conditions {
            device: Some(device.to_owned()),
            threads: Some(threads),
            ..conditions()
        };
        assert!(cuda("cuda (NVIDIA H100)", 2).differences(&cuda("cuda:3", 9)).is_empty());
        assert!(cuda("cuda:0+graphs (NVIDIA H100)", 2).differences(&cuda("cuda:3+graphs", 2)).is_empty());
        // At temperature 0 the rest has no effect.
        let greedy = |top_k| Conditions {
            sampling: Some(SamplingParams { top_k, ..SamplingParams::default() }),
            ..conditions()
        };
        assert!(greedy(None).differences(&greedy(Some(3))).is_empty());
    }
}
