//! What the schema says of the values of a key.

use std::ops::RangeInclusive;

use schemars::Schema;
use schemars::transform::Transform;
use serde_json::Value;

/// Numbers within a range.
pub(super) fn within<T: Copy + Into<Value>>(range: RangeInclusive<T>) -> impl Transform {
    move |schema: &mut Schema| {
        schema.insert("minimum".to_owned(), (*range.start()).into());
        schema.insert("maximum".to_owned(), (*range.end()).into());
    }
}

/// One of these texts.
pub(super) fn one_of(texts: &'static [&str]) -> impl Transform {
    move |schema: &mut Schema| _ = schema.insert("enum".to_owned(), texts.into())
}
