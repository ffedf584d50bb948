//! What was said before: the longest earlier occurrence of the latest tokens, and what followed it.
//!
//! A suffix automaton (Blumer et al. 1985, "The smallest automaton recognizing the subwords of a
//! text") grows by a token at a time. The state of the longest repeated end of the text is followed
//! along, cut to a limit, as are the number of occurrences and the latest one of every end of the
//! text that is not longer than the limit: a state that holds such a string has at most as many
//! suffix links above it as the limit says, so a token takes constant time, amortised.

use std::collections::HashMap;

/// State of the empty string.
const ROOT: u32 = 0;
/// No state, no edge.
const NONE: u32 = u32::MAX;

/// Finds the longest earlier occurrence of the latest tokens of a growing text.
///
/// ```
/// use ltd_cycle::CopySource;
///
/// let mut source = CopySource::new(8);
/// source.extend(&[1, 2, 3, 4, 9, 1, 2, 3]);
/// let found = source.find().expect("1 2 3 were said before");
/// assert_eq!((found.length, found.end, found.occurrences), (3, 3, 1));
/// // Where it runs into the present it goes on periodically.
/// assert_eq!(source.chain(found, 7), [4, 9, 1, 2, 3, 4, 9]);
/// ```
#[derive(Debug, Clone)]
pub struct CopySource {
    limit: usize,
    tokens: Vec<u32>,
    states: Vec<State>,
    /// Where a state goes on with a token.
    next: HashMap<(u32, u32), u32>,
    /// Tokens that a state goes on with, as lists: a token, and the entry after it.
    edges: Vec<(u32, u32)>,
    /// The state of the whole text.
    whole: u32,
    /// The state of the longest end of the text that was there before, of one token more than the
    /// limit at most: how often a match went on in the same way is asked, too.
    matched: u32,
    /// Its length.
    length: usize,
    /// The same, before the present counted among the occurrences.
    found: Option<Occurrence>,
}

/// Strings that end at the same places of the text.
#[derive(Debug, Clone, Copy)]
struct State {
    /// Length of the longest of them.
    longest: u32,
    /// State of the longest end of theirs that ends at more places.
    link: u32,
    /// Tokens before the end of the latest occurrence. This and the next are kept where the
    /// shortest string has no more than one token beyond the limit.
    end: u32,
    /// Occurrences.
    count: u32,
    /// First entry of its list of edges.
    edges: u32,
}

/// An earlier occurrence of the latest tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrence {
    /// Tokens that are the same, up to the limit.
    pub length: usize,
    /// Number of the token that followed the latest occurrence.
    pub end: usize,
    /// Earlier occurrences of these tokens.
    pub occurrences: usize,
    /// Earlier occurrences that were followed by the same token as the latest one.
    pub agreeing: usize,
}

impl CopySource {
    /// A source without tokens, that compares no more than `limit` of the latest ones.
    ///
    /// # Panics
    /// If the limit is 0.
    pub fn new(limit: usize) -> Self {
        assert!(limit > 0, "a match has a token");
        let root = State { longest: 0, link: NONE, end: 0, count: 0, edges: NONE };
        Self {
            limit,
            tokens: Vec::new(),
            states: vec![root],
            next: HashMap::new(),
            edges: Vec::new(),
            whole: ROOT,
            matched: ROOT,
            length: 0,
            found: None,
        }
    }

    /// Adds the next tokens.
    ///
    /// # Panics
    /// From 2^31 tokens on.
    pub fn extend(&mut self, tokens: &[u32]) {
        for &token in tokens {
            self.push(token);
        }
    }

    /// Tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The longest earlier occurrence of the latest tokens, of which the latest; none if the last
    /// token is new.
    pub fn find(&self) -> Option<Occurrence> {
        self.found
    }

    /// The `length` tokens that followed an occurrence; where it runs into the present it goes on
    /// periodically.
    ///
    /// # Panics
    /// If the occurrence is not one of this text.
    pub fn chain(&self, of: Occurrence, length: usize) -> Vec<u32> {
        let earlier = &self.tokens[of.end..];
        assert!(!earlier.is_empty(), "an occurrence is followed by a token");
        earlier.iter().copied().cycle().take(length).collect()
    }

    fn push(&mut self, token: u32) {
        self.follow(token);
        self.append(token);
        self.tokens.push(token);
        self.count_present();
    }

    /// Finds the longest end of the text with this token that was there before.
    fn follow(&mut self, token: u32) {
        loop {
            if let Some(&state) = self.next.get(&(self.matched, token)) {
                (self.matched, self.length) = (state, self.length + 1);
                break;
            }
            let State { link, .. } = self.states[self.matched as usize];
            if link == NONE {
                self.length = 0;
                return;
            }
            (self.matched, self.length) = (link, self.states[link as usize].longest as usize);
        }
        self.length = self.length.min(self.limit + 1);
        while self.shorter(self.matched) >= self.length {
            self.matched = self.states[self.matched as usize].link;
        }
    }

    /// Length of the longest string of a state's link: its own are longer.
    fn shorter(&self, state: u32) -> usize {
        match self.states[state as usize].link {
            NONE => 0,
            link => self.states[link as usize].longest as usize,
        }
    }

    /// The automaton of the text with this token.
    fn append(&mut self, token: u32) {
        let longest = self.states[self.whole as usize].longest + 1;
        let whole = self.add(State { longest, link: ROOT, end: 0, count: 0, edges: NONE });
        let mut from = std::mem::replace(&mut self.whole, whole);
        while from != NONE && !self.next.contains_key(&(from, token)) {
            self.connect(from, token, whole);
            from = self.states[from as usize].link;
        }
        if from == NONE {
            return;
        }
        let to = self.next[&(from, token)];
        let length = self.states[from as usize].longest + 1;
        self.states[whole as usize].link =
            if self.states[to as usize].longest == length { to } else { self.split(from, token, to, length) };
    }

    /// Gives the strings of `to` that are not longer than `length` a state of their own: they now
    /// end at one more place than the others.
    fn split(&mut self, mut from: u32, token: u32, to: u32, length: u32) -> u32 {
        let clone = self.add(State { longest: length, edges: NONE, ..self.states[to as usize] });
        let mut edge = self.states[to as usize].edges;
        while edge != NONE {
            let (follower, other) = self.edges[edge as usize];
            self.connect(clone, follower, self.next[&(to, follower)]);
            edge = other;
        }
        self.states[to as usize].link = clone;
        while from != NONE && self.next.get(&(from, token)) == Some(&to) {
            self.next.insert((from, token), clone);
            from = self.states[from as usize].link;
        }
        if self.matched == to && self.length <= length as usize {
            self.matched = clone;
        }
        clone
    }

    fn add(&mut self, state: State) -> u32 {
        let number = u32::try_from(self.states.len()).ok().filter(|&number| number != NONE);
        self.states.push(state);
        number.expect("fewer than 2^31 tokens")
    }

    fn connect(&mut self, from: u32, token: u32, to: u32) {
        self.next.insert((from, token), to);
        let State { edges, .. } = &mut self.states[from as usize];
        let entry = (token, std::mem::replace(edges, self.edges.len() as u32));
        self.edges.push(entry);
    }

    /// Notes the match, and that its strings end here, too.
    fn count_present(&mut self) {
        let present = self.tokens.len() as u32;
        let length = self.length.min(self.limit);
        let longer = length > 0 && self.shorter(self.matched) >= length;
        let found = if longer { self.states[self.matched as usize].link } else { self.matched };
        let State { end, count, .. } = self.states[found as usize];
        let mut state = self.matched;
        while state != ROOT {
            let State { link, end, count, .. } = &mut self.states[state as usize];
            (*end, *count) = (present, *count + 1);
            state = *link;
        }
        let whole = &mut self.states[self.whole as usize];
        (whole.end, whole.count) = (present, 1);
        self.found = (length > 0).then(|| {
            let (end, occurrences) = (end as usize, count as usize);
            // What follows may be the present token.
            let followed = self.next.get(&(found, self.tokens[end]));
            let agreeing = followed.map_or(0, |&state| self.states[state as usize].count as usize);
            Occurrence { length, end, occurrences, agreeing }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by comparing with every earlier place.
    fn by_comparison(tokens: &[u32], limit: usize) -> Option<Occurrence> {
        let same = |end: usize| {
            let latest = tokens.iter().rev().zip(tokens[..end].iter().rev());
            latest.take(limit).take_while(|(a, b)| a == b).count()
        };
        let lengths: Vec<usize> = (1..tokens.len()).map(same).collect();
        let length = lengths.iter().copied().max().filter(|&length| length > 0)?;
        let ends: Vec<usize> = (1..tokens.len()).filter(|end| lengths[end - 1] == length).collect();
        let end = *ends.last()?;
        let agreeing = ends.iter().filter(|&&other| tokens[other] == tokens[end]).count();
        Some(Occurrence { length, end, occurrences: ends.len(), agreeing })
    }

    /// Numbers that look random.
    fn texts() -> impl Iterator<Item = Vec<u32>> {
        (0..300u32).map(|seed| {
            let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
            let mut random = move |below: u32| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) % below
            };
            let letters = [1, 2, 3, 12][seed as usize % 4];
            let mut text: Vec<u32> = Vec::new();
            while text.len() < 120 {
                // Now and then it says again what it said.
                if random(8) == 0 && !text.is_empty() {
                    let (from, length) = (random(text.len() as u32) as usize, random(20));
                    (0..length as usize).for_each(|at| text.push(text[from + at % (text.len() - from)]));
                } else {
                    text.push(random(letters));
                }
            }
            text
        })
    }

    #[test]
    fn finds_what_a_comparison_with_every_place_finds() {
        let mut found = 0;
        for (number, text) in texts().enumerate() {
            let limit = [1, 2, 5, 8, 32][number % 5];
            let mut source = CopySource::new(limit);
            assert_eq!(source.find(), None);
            for end in 1..=text.len() {
                source.extend(&text[end - 1..end]);
                let expected = by_comparison(&text[..end], limit);
                assert_eq!(source.find(), expected, "limit {limit}, {:?}", &text[..end]);
                found += usize::from(expected.is_some_and(|found| found.occurrences > found.agreeing));
            }
        }
        assert!(found > 1000, "the texts go on in different ways");
    }

    #[test]
    fn a_chain_that_reaches_the_present_is_periodic() {
        let mut source = CopySource::new(4);
        source.extend(&[7, 5, 5]);
        let found = source.find().expect("5 was there before");
        assert_eq!((found.length, found.end), (1, 2));
        assert_eq!(source.chain(found, 3), [5, 5, 5]);
        source.extend(&[7, 1]);
        assert_eq!(source.find(), None);
        source.extend(&[7]);
        let found = source.find().expect("7 was there before");
        assert_eq!(source.chain(found, 4), [1, 7, 1, 7]);
    }

    #[test]
    fn a_long_text_has_a_bounded_number_of_states() {
        for period in [1, 2, 50, 32_768] {
            let mut source = CopySource::new(32);
            let text: Vec<u32> = (0..32_768).map(|at| at % period).collect();
            source.extend(&text);
            assert!(source.states.len() <= 2 * text.len() && source.edges.len() <= 3 * text.len());
        }
    }
}
