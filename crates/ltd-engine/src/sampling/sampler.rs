//! Chooses tokens: greedily, or at random from a seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tch::Tensor;

use super::distribution::weights;
use super::{SamplingParams, distribution, tokens_at};
use crate::model::{Argmax, FetchedArgmax};
use crate::transfer::{Download, Upload, Waited};
use crate::{Error, Result};

/// Chooses the tokens of one sequence from the target's logits.
///
/// It has no state: the random number of a token is a function of the seed, the sequence's number
/// and the token's position in the sequence. The same seed, prompt and settings give the same
/// tokens, on the same machine bit for bit, no matter what was decoded before, beside it, or with
/// which trees.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    random: ChaCha8Rng,
}

/// 32-bit words of the generator that a position owns: one number of 64 bits.
const WORDS_PER_POSITION: u128 = 2;
/// Bits of a random number. With one more, its product with a sum of probabilities could round up
/// to the sum.
const UNIFORM_BITS: u32 = 52;

impl Sampler {
    /// A sampler for sequence 0 of a seed. Fails with the first impossible value.
    pub fn new(params: SamplingParams, seed: u64) -> Result<Self> {
        match params.problems().into_iter().next() {
            Some((field, problem)) => Err(Error::Config { field, problem }),
            None => Ok(Self { params, random: ChaCha8Rng::seed_from_u64(seed) }),
        }
    }

    /// Always the most probable token.
    pub fn greedy() -> Self {
        Self { params: SamplingParams::default(), random: ChaCha8Rng::seed_from_u64(0) }
    }

    /// The same for another sequence: an independent stream of the same seed.
    #[must_use]
    pub fn for_sequence(&self, number: u64) -> Self {
        let mut random = self.random.clone();
        random.set_stream(number);
        Self { params: self.params, random }
    }

    /// The settings.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The target's token for each row of logits (`[rows, vocabulary]`), where row `i` is to give
    /// the token at position `positions[i]` of the sequence.
    pub fn tokens(&self, logits: &Tensor, positions: &[usize]) -> Result<Vec<u32>> {
        let mut upload = Upload::default();
        let randoms = upload.add_doubles(self.randoms(positions));
        let randoms = upload.send(logits.device())?.get(randoms);
        let choices = self.choose(logits, &randoms)?;
        choices.read(&Waited::for_all_before(logits)?, positions)
    }

    /// The random numbers that the tokens of some positions need: none if they are chosen greedily.
    pub(crate) fn randoms(&self, positions: &[usize]) -> Vec<f64> {
        let random = !self.params.is_greedy();
        positions.iter().filter(|_| random).map(|&position| self.uniform(position)).collect()
    }

    /// Begins to fetch the token of each row of logits, with its random number of
    /// [`Sampler::randoms`] where the logits are.
    pub(crate) fn choose(&self, logits: &Tensor, randoms: &Tensor) -> Result<Choices> {
        self.choose_there(logits, randoms)?.fetch()
    }

    /// [`Sampler::choose`], without fetching anything.
    pub(crate) fn choose_there(&self, logits: &Tensor, randoms: &Tensor) -> Result<Chosen> {
        if self.params.is_greedy() {
            return Ok(Chosen::Greedy(Argmax::of(logits)?));
        }
        let uniforms = randoms.view([-1, 1]);
        let (weights, lacking) = weights(logits, &self.params)?;
        let tokens = tokens_at(&weights, &uniforms)?;
        let vocabulary = logits.size()[1];
        let Some(lacking) = lacking else {
            return Ok(Chosen::Sampled { tokens, vocabulary, unknown: None });
        };
        let tokens = tokens.f_masked_fill_tensor(&lacking.f_squeeze_dim(1)?, &Tensor::from(UNKNOWN))?;
        let unknown = Unknown { logits: logits.shallow_clone(), uniforms, params: self.params };
        Ok(Chosen::Sampled { tokens, vocabulary, unknown: Some(unknown) })
    }

    /// The random number of a position, uniform in `[0, 1)`.
    fn uniform(&self, position: usize) -> f64 {
        let mut random = self.random.clone();
        random.set_word_pos(WORDS_PER_POSITION * position as u128);
        let bits = random.next_u64() >> (u64::BITS - UNIFORM_BITS);
        bits as f64 / (1_u64 << UNIFORM_BITS) as f64
    }
}

/// Tokens that were chosen, where the logits are.
pub(crate) enum Chosen {
    Greedy(Argmax),
    Sampled { tokens: Tensor, vocabulary: i64, unknown: Option<Unknown> },
}

/// What a token is looked for in, if more of the distribution is needed than usual.
pub(crate) struct Unknown {
    logits: Tensor,
    uniforms: Tensor,
    params: SamplingParams,
}

impl Chosen {
    /// Begins to fetch them.
    pub(crate) fn fetch(self) -> Result<Choices> {
        Ok(match self {
            Self::Greedy(argmax) => Choices::Greedy(argmax.fetch()?),
            Self::Sampled { tokens, vocabulary, unknown } => {
                Choices::Sampled { tokens: Download::begin(&tokens)?, vocabulary, unknown }
            }
        })
    }

    /// The same with other tensors in the place of its own.
    pub(crate) fn map(&self, mut other: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(match self {
            Self::Greedy(argmax) => Self::Greedy(argmax.map(other)?),
            Self::Sampled { tokens, vocabulary, unknown } => {
                let tokens = other(tokens)?;
                let mut unknown_there = |Unknown { logits, uniforms, params }: &Unknown| {
                    Ok::<_, Error>(Unknown {
                        logits: other(logits)?,
                        uniforms: other(uniforms)?,
                        params: *params,
                    })
                };
                let unknown = unknown.as_ref().map(&mut unknown_there).transpose()?;
                Self::Sampled { tokens, vocabulary: *vocabulary, unknown }
            }
        })
    }
}

/// Tokens that were chosen, on their way to the host.
pub(crate) enum Choices {
    Greedy(FetchedArgmax),
    Sampled { tokens: Download, vocabulary: i64, unknown: Option<Unknown> },
}

/// In the place of a token for which more of the distribution is needed.
const UNKNOWN: i64 = i64::MIN;

impl Choices {
    /// The tokens of some positions, once the device was waited for. Where a nucleus has more
    /// tokens than usual, the device is asked once more.
    pub(crate) fn read(self, waited: &Waited, positions: &[usize]) -> Result<Vec<u32>> {
        let tokens = match self {
            Self::Greedy(tokens) => tokens.read(waited)?,
            Self::Sampled { tokens, vocabulary, unknown } => {
                let mut tokens = tokens.read::<i64>(waited)?;
                if let Some(Unknown { logits, uniforms, params }) =
                    unknown.filter(|_| tokens.contains(&UNKNOWN))
                {
                    let all = Vec::try_from(tokens_at(&distribution(&logits, &params)?, &uniforms)?)?;
                    // Only those: no row's token depends on the rows beside it.
                    let unknown = tokens.iter_mut().zip(all).filter(|(token, _)| **token == UNKNOWN);
                    unknown.for_each(|(token, found)| *token = found);
                }
                let known = 0..vocabulary;
                tokens.into_iter().map(|token| known.contains(&token).then_some(token as u32)).collect()
            }
        };
        let known = tokens.into_iter().zip(positions);
        known.map(|(token, &position)| token.ok_or(Error::LogitsNotANumber { position })).collect()
    }
}
