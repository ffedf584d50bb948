//! Products of a few rows with a large weight, at the speed at which the weight can be read.
//!
//! A weight is packed once, into panels of the outputs that a tile of sums is computed for: a panel
//! is read from end to end, and a number of the rows is multiplied with all of a panel's outputs at
//! once. Weights of two bytes stay so in memory and become f32 in registers, where an instruction
//! set does not multiply them as they are. What is done with a product is done while it is in
//! registers. Each sum is taken in the order of the inputs, whatever the number of rows: a row's
//! result does not depend on the rows beside it.

mod multiply;
mod panels;

use std::cell::RefCell;

use crate::Cpu;
use crate::element::Element;
use crate::memory::{Line, SharedMut};
use crate::norm::{Input, RowNorm};
use crate::threads::in_turn;

pub(crate) use multiply::{Columns, Inputs, Product, Then};
pub use panels::Panels;
pub(crate) use panels::{PanelSums, PlainPanel};

thread_local! {
    /// Of the thread that starts a product.
    static NORMED: RefCell<Vec<Line>> = RefCell::default();
}

/// What is done with a product where it is computed.
#[derive(Debug, Clone, Copy)]
pub enum Fused<'t, T> {
    /// The product itself.
    Nothing,
    /// `silu(product)`.
    Silu,
    /// `product * other`, with `other` of the result's shape.
    Times(&'t [T]),
    /// `product + other`, with `other` of the result's shape.
    Plus(&'t [T]),
}

/// A packed weight, and the bias `[outputs]` that is added to its product before all else.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'t, T> {
    /// The weight.
    pub weight: &'t Panels<T>,
    /// `[outputs]`.
    pub bias: Option<&'t [T]>,
}

#[expect(private_bounds, reason = "for this crate alone")]
impl<'t, T: Element> Linear<'t, T> {
    pub(crate) fn run(self, cpu: Cpu, x: &[T], norm: Option<RowNorm<T>>, fused: Fused<T>, result: &mut [T]) {
        NORMED.with_borrow_mut(|memory| {
            let outputs = self.weight.outputs();
            let then = match fused {
                Fused::Nothing => Then::Nothing,
                Fused::Silu => Then::Silu,
                Fused::Times(other) => Then::Times(Columns::of(other.into(), outputs)),
                Fused::Plus(other) => Then::Plus(Columns::of(other.into(), outputs)),
            };
            let input = Input::new(cpu, x, norm, memory);
            let product = self.product(cpu, Inputs::new(input.rows), then, SharedMut::of(result));
            // SAFETY: The work is made here; the first writes normed rows that the second reads,
            // the second the result, and both are nobody else's.
            unsafe { in_turn(cpu.threads, [&input, &product]) };
        });
    }

    /// The product of `[rows, inputs]`, `[rows, outputs]`.
    pub(crate) fn product<'p>(
        self,
        cpu: Cpu,
        x: Inputs<'p, T>,
        then: Then<'p, T>,
        result: SharedMut<'p, T>,
    ) -> Product<'p, T>
    where
        't: 'p,
    {
        assert_eq!(cpu.instructions, self.weight.instructions(), "instructions that a weight is packed for");
        Product::new(cpu, x, self.weight, self.bias, then, result)
    }
}
