//! When engines copy what was said before.

use ltd_cycle::{Copying, WholeBeam};
use ltd_policy::CopyRule;

/// A published rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Whose it is.
    pub name: &'static str,
    /// The rule.
    pub rule: CopyRule,
    /// Where it is from, and what was read into it.
    pub source: &'static str,
}

/// The suffix automaton that TensorRT-LLM puts before its draft models (`SAEnhancerConfig`,
/// `threshold`). It copies as many tokens as the draft model would draft, which is the user's to
/// say: 8 here, the levels of EAGLE-3's trees.
pub const TENSORRT_LLM: Published = Published {
    name: "copy-tensorrt-llm",
    rule: CopyRule { match_length: 4, chain: 8 },
    source: "TensorRT-LLM, suffix automaton, threshold 4; the chain of 8 is ours",
};

/// SAM-Decoding in its evaluation (`samd_len_threshold 5`, `samd_n_predicts 40`). Its second
/// automaton, of other texts, is left out.
pub const SAM_DECODING: Published = Published {
    name: "copy-sam",
    rule: CopyRule { match_length: 5, chain: 40 },
    source: "arXiv 2411.10666, github.com/hyx1999/SAM-Decoding",
};

/// Prompt lookup decoding (`max_ngram_size` 3, `num_pred_tokens` 10). It tries shorter n-grams
/// where none of three tokens matches, as it has no draft model to turn to; with trees, three must
/// match. It looks in all of the sequence, as all of these rules do here.
pub const PROMPT_LOOKUP: Published = Published {
    name: "prompt-lookup",
    rule: CopyRule { match_length: 3, chain: 10 },
    source: "github.com/apoorvumang/prompt-lookup-decoding",
};

/// All of them.
pub const ALL: [Published; 3] = [TENSORRT_LLM, SAM_DECODING, PROMPT_LOOKUP];

impl Published {
    /// Copies by the rule, and drafts such trees where it does not.
    pub fn controller(self, trees: WholeBeam) -> Copying<WholeBeam> {
        Copying { rule: self.rule, merged: None, trees }
    }
}

#[cfg(test)]
mod tests {
    use ltd_cycle::Controller;
    use ltd_policy::{DraftSource, SourceSummary};

    use super::*;

    #[test]
    fn they_copy_where_enough_matches() {
        for (published, match_length, chain) in
            [(TENSORRT_LLM, 4, 8), (SAM_DECODING, 5, 40), (PROMPT_LOOKUP, 3, 10)]
        {
            assert_eq!(published.rule.problem(), None);
            let mut controller = published.controller(crate::EAGLE_DEFAULT);
            let mut source =
                |match_length| controller.source(&SourceSummary { match_length, ..SourceSummary::default() });
            assert_eq!(source(match_length), DraftSource::Copy { chain });
            assert_eq!(source(match_length - 1), DraftSource::Tree);
            assert!(controller.chooses_source());
            assert_eq!(controller.trees, crate::EAGLE_DEFAULT);
        }
    }
}
