//! However many tokens come at once, a generation ends as one token at a time ends it.

use ltd_cycle::{Continuation, StopReason, StopRule};
use proptest::prelude::*;

/// Decodes `text` (the tokens that the target would give for ever) in commits of these sizes,
/// within a cache that has room for so many new tokens: the output, why it ended, and how many
/// tokens were roots.
fn decode(
    rule: &StopRule,
    text: &[u32],
    commits: &[usize],
    room: usize,
) -> (Vec<u32>, StopReason, Vec<usize>) {
    let (mut done, mut roots) = (0, Vec::new());
    for commit in commits.iter().cycle() {
        let now = Continuation { tokens: &text[..done], root: text[done], is_full: done >= room };
        if let Some(reason) = rule.reached(now) {
            return (rule.output(now), reason, roots);
        }
        roots.push(done);
        done += (*commit).min(room - done);
    }
    unreachable!("commits are not empty");
}

proptest! {
    #[test]
    fn the_end_does_not_depend_on_how_many_tokens_come_at_once(
        text in prop::collection::vec(0u32..12, 80),
        commits in prop::collection::vec(1usize..7, 1..10),
        eos in prop::collection::vec(0u32..12, 0..3),
        max_new_tokens in 1usize..40,
        room in 0usize..60,
    ) {
        let rule = StopRule { max_new_tokens, eos };
        let (plain, reason, roots) = decode(&rule, &text, &[1], room);
        let (output, found, _) = decode(&rule, &text, &commits, room);
        prop_assert_eq!(&output, &plain);
        prop_assert!(plain.len() <= max_new_tokens);
        // What came beyond the limit may tell another reason.
        prop_assert!(found == reason || output.len() == max_new_tokens);
        // Every plain step had a root, and `roots` counts them from the text alone.
        prop_assert_eq!(roots.len(), rule.roots(&text, room));
        let ends_at = output.iter().position(|token| rule.eos.contains(token));
        prop_assert!(ends_at.is_none_or(|end| end + 1 == output.len()));
    }
}

#[test]
fn a_limit_comes_before_an_end_beyond_it() {
    let rule = StopRule { max_new_tokens: 2, eos: vec![9] };
    let at = |tokens, root| Continuation { tokens, root, is_full: false };
    assert_eq!(rule.reached(at(&[], 5)), None);
    assert_eq!(rule.reached(at(&[], 9)), Some(StopReason::EndOfSequence));
    assert_eq!(rule.reached(at(&[5], 9)), Some(StopReason::EndOfSequence));
    assert_eq!(rule.reached(at(&[5, 6], 9)), Some(StopReason::MaxNewTokens));
    assert_eq!(rule.reached(at(&[5, 6, 9], 7)), Some(StopReason::MaxNewTokens));
    assert_eq!(rule.output(at(&[5, 6, 9], 7)), [5, 6]);
    let full = Continuation { tokens: &[5], root: 6, is_full: true };
    assert_eq!(rule.reached(full), Some(StopReason::CacheFull));
    assert_eq!(rule.output(full), [5, 6]);
}
