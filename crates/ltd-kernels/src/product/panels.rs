//! Weights in the order in which they are multiplied.

use std::marker::PhantomData;

use crate::element::Element;
use crate::memory::{Line, Pod, SharedMut, cast, cast_mut};
use crate::threads::{Work, in_turn};
use crate::vector::{Instructions, Kernel, LANES, Vector, multiply_add};
use crate::{Cpu, InstructionSet};

/// Sums of the products of one row with all outputs of a panel.
pub(crate) trait PanelSums: Copy {
    /// Numbers of the weight.
    type Number: Element;
    /// What a row gives in one step: an f32, or the pair of its own type that an instruction
    /// multiplies.
    type Unit: Pod;
    /// What the weight gives in one step: [`Self::OUTPUTS`] times [`Self::NUMBERS`] of its numbers.
    type Step: Pod;
    /// The same as it is multiplied, in registers.
    type Lanes: Copy;
    /// Outputs of a panel, one or two vectors.
    const OUTPUTS: usize;
    /// Inputs that one step multiplies.
    const NUMBERS: usize;
    /// Rows whose sums fit in the registers, beside what is multiplied; at most 12.
    const ROWS: usize;
    /// Steps between two looks at what is to be fetched.
    const STEPS: usize;

    /// Where a number is in its step.
    fn place(output: usize, input: usize) -> usize;
    fn zero() -> Self;
    fn lanes(step: &Self::Step) -> Self::Lanes;
    /// Adds the products of a step.
    fn add(self, lanes: Self::Lanes, unit: Self::Unit) -> Self;
    /// The sums of a vector of outputs.
    fn vector(self, number: usize) -> Vector;
}

/// What the compiler makes of a loop.
#[derive(Clone, Copy)]
pub(crate) struct PlainPanel<T, I> {
    sums: Vector,
    types: PhantomData<(T, I)>,
}

impl<T: Element, I: Instructions> PanelSums for PlainPanel<T, I> {
    type Number = T;
    type Unit = f32;
    type Step = [T; LANES];
    type Lanes = Vector;
    const OUTPUTS: usize = LANES;
    const NUMBERS: usize = 1;
    const ROWS: usize = 2;
    const STEPS: usize = 1;

    fn place(output: usize, _: usize) -> usize {
        output
    }

    #[inline(always)]
    fn zero() -> Self {
        Self { sums: [0.0; LANES], types: PhantomData }
    }

    #[inline(always)]
    fn lanes(step: &[T; LANES]) -> Vector {
        let mut lanes = [0.0; LANES];
        for (lane, number) in lanes.iter_mut().zip(step) {
            *lane = number.to_f32();
        }
        lanes
    }

    #[inline(always)]
    fn add(mut self, lanes: Vector, unit: f32) -> Self {
        for (sum, lane) in self.sums.iter_mut().zip(lanes) {
            *sum = multiply_add::<I>(lane, unit, *sum);
        }
        self
    }

    #[inline(always)]
    fn vector(self, _: usize) -> Vector {
        self.sums
    }
}

/// A weight in panels of as many outputs as a tile of sums is computed for: `[panels, inputs /
/// numbers, step]`, where a step has the numbers that are multiplied at once, in the order that an
/// instruction set wants. Outputs that the last panel has too many are zeros.
pub struct Panels<T> {
    memory: Vec<Line>,
    outputs: usize,
    inputs: usize,
    panel: usize,
    instructions: InstructionSet,
    numbers: PhantomData<T>,
}

#[expect(private_bounds, reason = "for this crate alone")]
impl<T: Element> Panels<T> {
    pub(crate) fn packed_from(cpu: Cpu, weight: &[T], [outputs, inputs]: [usize; 2]) -> Option<Self> {
        assert!(
            inputs > 0 && Some(weight.len()) == outputs.checked_mul(inputs),
            "a weight {outputs} x {inputs}"
        );
        let Shape { panel, step } = cpu.instructions.run(ShapeOf::<T>(PhantomData));
        if !inputs.is_multiple_of(step) {
            return None;
        }
        let count = outputs.div_ceil(panel) * panel * inputs;
        let mut memory = vec![Line::default(); (count * size_of::<T>()).div_ceil(size_of::<Line>())];
        let packing = Packing {
            instructions: cpu.instructions,
            weight,
            outputs,
            inputs,
            panel,
            packed: SharedMut::of(&mut cast_mut(&mut memory)[..count]),
        };
        // SAFETY: The work is made here; each item writes a panel of its own, which are nobody
        // else's.
        unsafe { in_turn(cpu.threads, [&packing]) };
        Some(Self { memory, outputs, inputs, panel, instructions: cpu.instructions, numbers: PhantomData })
    }

    /// Outputs of the product.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Inputs of the product.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The instructions that it is packed for.
    pub fn instructions(&self) -> InstructionSet {
        self.instructions
    }

    /// Outputs of a panel.
    pub(super) fn panel(&self) -> usize {
        self.panel
    }

    /// All panels.
    pub(super) fn packed(&self) -> &[T] {
        &cast(&self.memory)[..self.outputs.div_ceil(self.panel) * self.panel * self.inputs]
    }
}

impl<T> std::fmt::Debug for Panels<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { outputs, inputs, instructions, .. } = self;
        write!(formatter, "Panels({outputs} x {inputs}, {instructions})")
    }
}

/// How an instruction set divides a weight.
struct Shape {
    /// Outputs of a panel.
    panel: usize,
    /// Inputs of a step.
    step: usize,
}

struct ShapeOf<T>(PhantomData<T>);

impl<T: Element> Kernel for ShapeOf<T> {
    type Output = Shape;

    #[inline(always)]
    fn run<I: Instructions>(self) -> Shape {
        Shape { panel: T::Panel::<I>::OUTPUTS, step: T::Panel::<I>::NUMBERS }
    }
}

/// An item is a panel.
struct Packing<'w, T> {
    instructions: InstructionSet,
    weight: &'w [T],
    outputs: usize,
    inputs: usize,
    panel: usize,
    packed: SharedMut<'w, T>,
}

impl<T: Element> Work for Packing<'_, T> {
    fn items(&self) -> usize {
        self.outputs.div_ceil(self.panel)
    }

    unsafe fn item(&self, panel: usize, _: Option<usize>) {
        let size = self.panel * self.inputs;
        // SAFETY: There is room for each panel, which is this item's own.
        let packed = unsafe { self.packed.part(panel * size, size) };
        let end = self.outputs.min((panel + 1) * self.panel);
        let rows = &self.weight[panel * size..end * self.inputs];
        self.instructions.run(PackPanel { rows, inputs: self.inputs, packed });
    }
}

/// The rows of a panel, and where they go.
struct PackPanel<'p, T> {
    rows: &'p [T],
    inputs: usize,
    packed: &'p mut [T],
}

impl<T: Element> Kernel for PackPanel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Instructions>(self) {
        let (numbers, step) = (T::Panel::<I>::NUMBERS, T::Panel::<I>::NUMBERS * T::Panel::<I>::OUTPUTS);
        for (output, row) in self.rows.chunks_exact(self.inputs).enumerate() {
            for (packed, inputs) in self.packed.chunks_exact_mut(step).zip(row.chunks_exact(numbers)) {
                for (input, number) in inputs.iter().enumerate() {
                    packed[T::Panel::<I>::place(output, input)] = *number;
                }
            }
        }
    }
}
