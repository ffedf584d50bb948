//! A gated MLP as one operation.

use std::cell::{Cell, RefCell};

use crate::Cpu;
use crate::element::Element;
use crate::memory::{Line, SharedMut};
use crate::norm::{Input, RowNorm};
use crate::product::{Columns, Inputs, Linear, Product, Then};
use crate::threads::{Work, in_turn};

thread_local! {
    /// Of the thread that starts a forward: normed rows, and `[rows, intermediate]`.
    static FORWARD: RefCell<[Vec<Line>; 2]> = RefCell::default();
    /// A panel's gates, of every thread.
    static GATES: Cell<Vec<Line>> = Cell::default();
}

/// The three products of a gated MLP.
#[derive(Debug, Clone, Copy)]
pub struct Mlp<'t, T> {
    /// `hidden -> intermediate`.
    pub gate: Linear<'t, T>,
    /// `hidden -> intermediate`.
    pub up: Linear<'t, T>,
    /// `intermediate -> hidden`.
    pub down: Linear<'t, T>,
}

#[expect(private_bounds, reason = "for this crate alone")]
impl<T: Element> Mlp<'_, T> {
    pub(crate) fn run(self, cpu: Cpu, x: &[T], norm: RowNorm<T>, result: &mut [T]) {
        let Self { gate, up, down } = self;
        let (hidden, intermediate) = (up.weight.inputs(), up.weight.outputs());
        assert_eq!([gate.weight.inputs(), gate.weight.outputs()], [hidden, intermediate], "gate and up");
        assert_eq!([down.weight.outputs(), down.weight.inputs()], [hidden, intermediate], "down and up");
        let rows = x.len() / hidden;
        FORWARD.with_borrow_mut(|[normed, inner]| {
            let input = Input::new(cpu, x, Some(norm), normed);
            let inner = SharedMut::new(inner, rows * intermediate);
            // Both read the same rows.
            let normed = Inputs::new(input.rows);
            let gated = Gated {
                gate: gate.product(cpu, normed, Then::Silu, inner),
                up: up.product(cpu, normed, Then::Nothing, inner),
                rows,
            };
            let residual = Then::Plus(Columns::of(x.into(), hidden));
            let down = down.product(cpu, Inputs::new(inner.into()), residual, SharedMut::of(result));
            // SAFETY: The work is made here; what one of them writes (the normed rows, the inner
            // ones, the result) is nobody else's but that of the later ones, which read it.
            unsafe { in_turn(cpu.threads, [&input, &gated, &down]) };
        });
    }
}

/// `silu(gate) * up`. A panel's gates stay with the thread that needs them.
struct Gated<'t, T> {
    gate: Product<'t, T>,
    up: Product<'t, T>,
    rows: usize,
}

impl<T: Element> Work for Gated<'_, T> {
    fn items(&self) -> usize {
        self.up.items()
    }

    unsafe fn item(&self, item: usize, next: Option<usize>) {
        let mut memory = GATES.take();
        let Self { gate, up, rows } = self;
        let panel = gate.panel_outputs();
        let gates = SharedMut::<T>::new(&mut memory, rows * panel);
        let times_gates = Then::Times(Columns::of_panel(gates.into(), panel));
        let (gate, up) = (gate.in_panel(gates), up.with(times_gates));
        // Each weight's panel is followed by one of the other's. SAFETY: Items are those of both
        // products, which are as large. The first writes memory of this thread, the second reads it
        // and writes the item's part of the result.
        unsafe {
            gate.multiply(item, up.panel(Some(item)));
            up.multiply(item, gate.panel(next));
        }
        GATES.set(memory);
    }

    fn reads(&self, item: usize) -> &[u8] {
        self.gate.reads(item)
    }
}
