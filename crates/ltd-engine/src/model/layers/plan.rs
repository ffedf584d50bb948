//! Where the rows of a forward stand and what they see.

use tch::{Device, Kind};

use super::host::{self, InstructionSet, Visibility};
use super::mask::Seen;
use super::rope::{RotaryTable, Rotation, RotationTensors};
use super::rows::Rows;
use crate::Result;
use crate::model::config::BlockConfig;
use crate::transfer::{Upload, Uploaded};

/// Where the rows of a forward stand and what they see, in the form that the device's kernels want:
/// the same for all layers.
pub(crate) struct AttentionPlan {
    /// Cached rows before them.
    pub(super) past: i64,
    pub(super) form: PlanForm,
}

/// The form of this project's kernels, or that of LibTorch's.
pub(super) enum PlanForm {
    Host(HostForm),
    Tensors(RotationTensors, Seen),
}

pub(super) struct HostForm {
    pub(super) rotation: Rotation,
    pub(super) visibility: Visibility,
    pub(super) instructions: InstructionSet,
}

impl AttentionPlan {
    /// Gets ready a plan for a model on a device and in a number type. What it needs there is added
    /// to the upload that it is then made of.
    pub(crate) fn prepare(
        upload: &mut Upload,
        rows: &Rows,
        rotary: &RotaryTable,
        config: &BlockConfig,
        (kind, device): (Kind, Device),
    ) -> impl FnOnce(&Uploaded) -> Result<Self> + use<> {
        let instructions = host::supports(device, kind).then(host::instructions);
        Self::prepare_with(instructions, upload, rows, rotary, config, (kind, device))
    }

    /// With LibTorch's kernels if there are no `instructions` to use.
    pub(super) fn prepare_with(
        instructions: Option<InstructionSet>,
        upload: &mut Upload,
        rows: &Rows,
        rotary: &RotaryTable,
        config: &BlockConfig,
        (kind, device): (Kind, Device),
    ) -> impl FnOnce(&Uploaded) -> Result<Self> + use<> {
        let (group, past) = (config.heads / config.kv_heads, rows.past);
        let prepared = if let Some(instructions) = instructions {
            let (everywhere, sees) = rows.mask.flags();
            let count = rows.positions.len();
            let visibility = Visibility::new(everywhere, Some(&sees), count, group as usize);
            Prepared::Host(HostForm { rotation: rotary.at(rows.positions), visibility, instructions })
        } else {
            // Queries in groups of as many heads as there are key heads, keys, and values.
            let groups = [group as usize + 1, group as usize + 2];
            let rotation = rotary.prepare(upload, rows.positions, device, groups);
            Prepared::Tensors(rotation, rows.mask.prepare(upload, rows.count(), group, kind))
        };
        move |uploaded: &Uploaded| {
            let form = match prepared {
                Prepared::Host(form) => PlanForm::Host(form),
                Prepared::Tensors(rotation, mask) => PlanForm::Tensors(rotation(uploaded)?, mask(uploaded)?),
            };
            Ok(Self { past, form })
        }
    }
}

/// A form, or what makes its parts of an upload.
enum Prepared<R, M> {
    Host(HostForm),
    Tensors(R, M),
}
