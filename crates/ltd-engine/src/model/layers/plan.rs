//! Where the rows of a forward stand and what they see.

use tch::{Device, Kind};

use super::bucket::Bucket;
use super::host::{self, InstructionSet, Visibility};
use super::mask::Seen;
use super::rope::{RotaryTable, Rotation, RotationTensors};
use super::rows::Rows;
use crate::kv_cache::Places;
use crate::model::config::BlockConfig;
use crate::transfer::{Upload, Uploaded};
use crate::{Error, Result};

/// Where the rows of a forward stand and what they see, in the form that the device's kernels want:
/// the same for all layers.
pub(crate) struct AttentionPlan {
    pub(super) form: PlanForm,
}

/// The form of this project's kernels, or that of LibTorch's.
pub(super) enum PlanForm {
    Host(HostForm),
    Tensors(TensorForm),
}

pub(super) struct TensorForm {
    pub(super) rotation: RotationTensors,
    pub(super) seen: Seen,
    /// Where their keys and values are cached.
    pub(super) places: Places,
    /// The end of the positions that are attended to.
    pub(super) end: i64,
}

pub(super) struct HostForm {
    /// Cached rows before them.
    pub(super) past: i64,
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
            Prepared::Host(HostForm { past, rotation: rotary.at(rows.positions), visibility, instructions })
        } else {
            // Queries in groups of as many heads as there are key heads, keys, and values.
            let groups = [group as usize + 1, group as usize + 2];
            let rotation = rotary.prepare(upload, rows.positions, device, groups);
            let seen = rows.mask.prepare(upload, [rows.count(), group, config.head_dim], kind);
            let bucket = rows.mask.bucket();
            let count = rows.count();
            let places = bucket.map(|_| upload.add_indices(past..past + count));
            let end = bucket.map_or(past + count, |Bucket { positions, .. }| positions);
            Prepared::Tensors(move |uploaded: &Uploaded| {
                let places = places.map_or(Places::From(past), |places| Places::At(uploaded.get(places)));
                Ok::<_, Error>(TensorForm {
                    rotation: rotation(uploaded)?,
                    seen: seen(uploaded)?,
                    places,
                    end,
                })
            })
        };
        move |uploaded: &Uploaded| {
            let form = match prepared {
                Prepared::Host(form) => PlanForm::Host(form),
                Prepared::Tensors(form) => PlanForm::Tensors(form(uploaded)?),
            };
            Ok(Self { form })
        }
    }
}

/// A form, or what makes it of an upload.
enum Prepared<T> {
    Host(HostForm),
    Tensors(T),
}
