//! Keys with which other families, and later versions of these, change the arithmetic. A
//! configuration that has one is run only if its value changes nothing: what is not computed here
//! is refused by name, never passed over.

use std::path::Path;

use serde_json::{Map, Value};

use super::unsupported::unsupported;
use crate::Result;

/// At which values, besides null, a key changes nothing.
#[derive(Debug, Clone, Copy)]
enum Neutral {
    /// At none.
    Null,
    /// Switched off; 0 means the same.
    Off,
    /// Switched on; 1 means the same.
    On,
    One,
    /// As many as a dense model has.
    AtMostOne,
    /// A list of this number.
    Ones,
    /// One of some names, in any case.
    Name(&'static [&'static str]),
    /// The width of a head.
    HeadDim,
    /// One over the root of it.
    HeadScale,
    /// The base of the rotary frequencies.
    RopeTheta,
}

use Neutral::{AtMostOne, HeadDim, HeadScale, Name, Null, Off, On, One, Ones, RopeTheta};

const SILU: Neutral = Name(&["silu", "swish", "swiglu"]);
const RMS_NORM: Neutral = Name(&["rms_norm", "rmsnorm", "rms"]);

const KEYS: &[(&str, Neutral)] = &[
    // Granite, Cohere, Falcon-H1, MiniCPM, OLMo, GLM: factors of the residual stream, the scores
    // and the logits.
    ("attention_multiplier", HeadScale),
    ("embedding_multiplier", One),
    ("residual_multiplier", One),
    ("logits_scaling", One),
    ("logit_scale", One),
    ("logit_multiplier", One),
    ("logits_multiplier", One),
    ("lm_head_multiplier", One),
    ("key_multiplier", One),
    ("attention_in_multiplier", One),
    ("attention_out_multiplier", One),
    ("mlp_multipliers", Ones),
    ("mup_scale_factor", One),
    ("mup_multiplier", One),
    ("width_multiplier", One),
    ("scale_emb", One),
    ("scale_depth", Null),
    ("dim_model_base", Null),
    ("embedding_scale", One),
    ("emb_scale", One),
    ("scale_embedding", Off),
    ("scale_embeddings", Off),
    ("normalize_embeddings", Off),
    // Gemma, Grok: limits of scores and logits, the scale of the scores.
    ("final_logit_softcapping", Null),
    ("attn_logit_softcapping", Null),
    ("attn_logit_softcap", Null),
    ("logit_softcap", Null),
    ("logits_soft_cap", Null),
    ("query_pre_attn_scalar", HeadDim),
    ("attention_scale", HeadScale),
    ("softmax_scale", HeadScale),
    ("attn_temperature_tuning", Off),
    ("scale_attn_by_inverse_layer_idx", Off),
    ("scale_attn_weights", On),
    ("attn_output_gate", Off),
    // OLMo, DBRX, MPT.
    ("clip_qkv", Null),
    ("alibi", Off),
    // Mixtures of experts.
    ("num_experts", AtMostOne),
    ("num_local_experts", AtMostOne),
    ("n_routed_experts", AtMostOne),
    ("n_shared_experts", Off),
    ("moe_num_experts", AtMostOne),
    // Norms of other kinds or in other places.
    ("use_qk_norm", Off),
    ("qk_norm", Off),
    ("qk_layernorm", Off),
    ("norm_type", RMS_NORM),
    ("normalization_type", RMS_NORM),
    ("rms_norm_add_unit_offset", Off),
    ("rmsnorm_add_unit_offset", Off),
    ("use_post_norm", Off),
    ("use_post_layernorm", Off),
    ("norm_after", Off),
    ("use_parallel_residual", Off),
    ("parallel_attn", Off),
    // Activations under other names.
    ("hidden_activation", SILU),
    ("activation_function", SILU),
    ("mlp_hidden_act", SILU),
    // Rotation: of a part of each head, of some layers, by other frequencies.
    ("partial_rotary_factor", One),
    ("rotary_pct", One),
    ("rope_pct", One),
    ("rotary_percent", One),
    ("rotary_dim", HeadDim),
    ("rope_ratio", One),
    ("rotary_emb_base", RopeTheta),
    ("rope_local_base_freq", RopeTheta),
    ("rope_interleave", Off),
    ("rope_interleaved", Off),
    ("no_rope_layers", Ones),
    ("no_rope_layer_interval", Off),
    // Attention that does not see all that came before, or more.
    ("attention_chunk_size", Null),
    ("use_bidirectional_attention", Off),
    ("is_causal", On),
    // Weights that are not numbers (transformers' own key is read beside the dimensions).
    ("compression_config", Null),
    ("quantization", Null),
];

/// What some keys are compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    pub(super) head_dim: i64,
    pub(super) rope_theta: f64,
}

/// Fails at the first key that asks for what is not computed.
pub(super) fn check(path: &Path, others: &Map<String, Value>, own: Own) -> Result<()> {
    for &(key, neutral) in KEYS {
        if let Some(value) = others.get(key).filter(|value| !value.is_null())
            && !neutral.holds(value, own)
        {
            return Err(unsupported(path, key, &neutral.expected(own), value.to_string()));
        }
    }
    Ok(())
}

impl Neutral {
    fn holds(self, value: &Value, own: Own) -> bool {
        let is = |wanted: f64| value.as_f64().is_some_and(|number| (number / wanted - 1.0).abs() < 1e-6);
        match self {
            Null => false,
            Off => value == &Value::Bool(false) || value.as_f64() == Some(0.0),
            On => value == &Value::Bool(true) || is(1.0),
            One => is(1.0),
            AtMostOne => value.as_f64().is_some_and(|number| (0.0..=1.0).contains(&number)),
            Ones => {
                let ones = |values: &Vec<Value>| values.iter().all(|value| One.holds(value, own));
                value.as_array().is_some_and(ones)
            }
            Name(names) => {
                value.as_str().is_some_and(|name| names.iter().any(|known| name.eq_ignore_ascii_case(known)))
            }
            HeadDim => is(own.head_dim as f64),
            HeadScale => is(own.head_scale()),
            RopeTheta => is(own.rope_theta),
        }
    }

    fn expected(self, own: Own) -> String {
        let value = match self {
            Null => return "null: this engine does not compute it".to_owned(),
            Off => "false".to_owned(),
            On => "true".to_owned(),
            One => "1".to_owned(),
            AtMostOne => "at most 1".to_owned(),
            Ones => "a list of 1".to_owned(),
            Name(names) => names.join(" or "),
            HeadDim => format!("{}, the head's width", own.head_dim),
            HeadScale => format!("{}, the root of 1 / head_dim", own.head_scale()),
            RopeTheta => format!("{}, as rope_theta", own.rope_theta),
        };
        format!("null or {value}: this engine computes nothing else")
    }
}

impl Own {
    fn head_scale(self) -> f64 {
        (self.head_dim as f64).sqrt().recip()
    }
}
