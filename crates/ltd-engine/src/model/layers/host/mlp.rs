//! A gated MLP as one operation.

use std::cell::{Cell, RefCell};

use tch::Tensor;

use super::element::{Element, with_element};
use super::memory::{Handover, Line, SharedMut};
use super::norm::{Input, RowNorm};
use super::parallel::{self, Work};
use super::product::{Biased, Columns, PANEL, Product, Then};
use super::{elements, elements_mut};

thread_local! {
    /// Of the thread that starts a forward: normed rows, and `[rows, intermediate]`.
    static FORWARD: RefCell<[Vec<Line>; 2]> = RefCell::default();
    /// A panel's gates, of every thread.
    static GATES: Cell<Vec<Line>> = Cell::default();
}

/// `x + down(silu(gate(normed)) * up(normed))`, with the rows of `x` normed.
pub(in super::super) fn mlp(gate: Biased, up: Biased, down: Biased, x: &Tensor, norm: RowNorm) -> Tensor {
    let x = up.rows(x);
    let (result, rows) = (down.result(&x), x.size()[0] as usize);
    assert_eq!((gate.outputs(), result.size()), (up.outputs(), x.size()));
    with_element!(x.kind(), T => FORWARD.with_borrow_mut(|[normed, inner]| {
        // SAFETY: The result is new, and x is only read until it is returned.
        let (x, result) = unsafe { (elements::<T>(&x), elements_mut::<T>(&result)) };
        let input = Input::new(x, Some(norm), normed);
        let inner = SharedMut::new(inner, rows * up.outputs());
        let gated = Gated::new(gate, up, input.rows, inner, rows);
        let down = down.product(inner.into(), Then::Plus(Columns::of(x.into(), down.outputs())), result);
        // SAFETY: The work is made here; what one of them writes (the normed rows, the inner ones, the
        // result) is nobody else's but that of the later ones, which read it.
        unsafe { parallel::in_turn([&input, &gated, &down]) };
    }));
    result
}

/// `silu(gate) * up`. A panel's gates stay with the thread that needs them.
struct Gated<'t, T> {
    gate: Product<'t, T>,
    up: Product<'t, T>,
    rows: usize,
}

impl<'t, T: Element> Gated<'t, T> {
    fn new(
        gate: Biased<'t>,
        up: Biased<'t>,
        x: Handover<'t, T>,
        result: SharedMut<'t, T>,
        rows: usize,
    ) -> Self {
        Self { gate: gate.product(x, Then::Silu, result), up: up.product(x, Then::Nothing, result), rows }
    }
}

impl<T: Element> Work for Gated<'_, T> {
    fn items(&self) -> usize {
        self.up.items()
    }

    unsafe fn item(&self, item: usize, next: Option<usize>) {
        let mut memory = GATES.take();
        let Self { gate, up, rows } = self;
        let gates = SharedMut::<T>::new(&mut memory, rows * PANEL);
        let (gate, up) = (gate.in_panel(gates), up.with(Then::Times(Columns::of_panel(gates.into()))));
        // Each weight's panel is followed by one of the other's.
        // SAFETY: Items are those of both products, which are as large. The first writes memory of this
        // thread, the second reads it and writes the item's part of the result.
        unsafe {
            gate.multiply(item, up.panel(Some(item)));
            up.multiply(item, gate.panel(next));
        }
        GATES.set(memory);
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::super::norm::rms_norm;
    use super::super::product::{Fused, Panels};
    use super::*;

    #[test]
    fn equals_its_operations_one_by_one() {
        for (kind, rows, hidden, intermediate) in
            [(Kind::Float, 1, 64, 96), (Kind::BFloat16, 29, 150, 70), (Kind::Float, 60, 576, 1000)]
        {
            let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
            let (x, weight) = (random(&[rows, hidden]) * 3, random(&[hidden]));
            let norm = RowNorm { weight: &weight, eps: 1e-5 };
            let shapes = [[intermediate, hidden], [intermediate, hidden], [hidden, intermediate]];
            let biases = shapes.map(|[outputs, _]| random(&[outputs]));
            let [gates, ups, downs] = shapes.map(|shape| Panels::of_all_instructions(&random(&shape)));
            let normed = rms_norm(&x, norm);
            for ((gate, up), down) in gates.iter().zip(&ups).zip(&downs) {
                let biased = |weight, i: usize| Biased { weight, bias: Some(&biases[i]) };
                let (gate, up, down) = (biased(gate, 0), biased(up, 1), biased(down, 2));
                let gates = gate.forward(&normed, None, Fused::Silu);
                let inner = up.forward(&normed, None, Fused::Times(&gates));
                let expected = down.forward(&inner, None, Fused::Plus(&x));
                assert_eq!(
                    mlp(gate, up, down, &x, norm),
                    expected,
                    "{kind:?}, {rows} rows, {:?}",
                    gate.weight
                );
            }
        }
    }
}
