//! From bytes to devices: arithmetic only, so that it can be tested without any.

use std::fmt;

/// Bytes of a pair's parts in device memory. A target's layers are consecutive: the first device
/// holds the embedding too, the last one the output projection and the draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Layers of the target.
    pub(crate) layers: usize,
    /// Weights of one of them.
    pub(crate) layer_weights: u64,
    /// Keys and values of one of them.
    pub(crate) layer_cache: u64,
    /// On the first device: the embedding.
    pub(crate) embedding: u64,
    /// On the last device: the output projection, unless it is the embedding.
    pub(crate) output: u64,
    /// On the last device: the draft with its cache, without an embedding that is the target's.
    pub(crate) draft: u64,
    /// On the last device, if it is not the first: copies of the embedding that output projection
    /// and draft share.
    pub(crate) copies: u64,
    /// On every device: what forwards need besides.
    pub(crate) working: u64,
}

/// A device with the number of layers that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// Index of the device.
    pub(crate) device: usize,
    /// Consecutive layers.
    pub(crate) layers: usize,
}

/// What is missing, device by device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    demand: Demand,
    /// Free bytes by device.
    free: Vec<u64>,
}

impl Demand {
    fn layer(&self) -> u64 {
        self.layer_weights + self.layer_cache
    }

    /// Weights and caches of the `position`-th of `count` devices, with so many layers: what it
    /// holds for good.
    pub(super) fn kept(&self, position: usize, count: usize, layers: u64) -> u64 {
        layers * self.layer() + self.fixed(position, count) - self.working
    }

    /// What a device must hold besides layers, as the `position`-th of `count`.
    fn fixed(&self, position: usize, count: usize) -> u64 {
        let first = if position == 0 { self.embedding } else { 0 };
        let last = if position + 1 == count { self.output + self.draft } else { 0 };
        let copies = if position > 0 && position + 1 == count { self.copies } else { 0 };
        self.working + first + last + copies
    }

    /// Everything, on so many devices.
    fn total(&self, count: usize) -> u64 {
        let fixed: u64 = (0..count).map(|position| self.fixed(position, count)).sum();
        self.layers as u64 * self.layer() + fixed
    }
}

/// The fewest devices that have room for everything, in order, with their layers: of all that would
/// do, those with the most free memory, in the order of their indices if that is possible. The
/// layers are spread so that the least memory left on any of them is as much as it can be.
pub(crate) fn place(demand: &Demand, free: &[u64]) -> Result<Vec<Load>, Shortage> {
    for count in 1..=free.len() {
        // A device with more memory can do all that one with less can, in its place.
        let mut chosen: Vec<usize> = (0..free.len()).collect();
        chosen.sort_by_key(|&device| std::cmp::Reverse(free[device]));
        chosen.truncate(count);
        chosen.sort_unstable();
        if let Some(loads) = orders(&chosen).find_map(|order| fill(demand, free, &order)) {
            return Ok(loads);
        }
    }
    Err(Shortage { demand: demand.clone(), free: free.to_vec() })
}

/// Orders of devices that differ in the first or the last one, which have more to hold than layers;
/// as given first.
fn orders(devices: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    let pairs = devices.iter().flat_map(move |&first| devices.iter().map(move |&last| (first, last)));
    let others = pairs.filter(|(first, last)| first != last).map(move |(first, last)| {
        let between = devices.iter().copied().filter(|&device| device != first && device != last);
        std::iter::once(first).chain(between).chain([last]).collect()
    });
    std::iter::once(devices.to_vec()).chain(others)
}

/// The layers of each device in this order, if there is room for them.
fn fill(demand: &Demand, free: &[u64], order: &[usize]) -> Option<Vec<Load>> {
    let rooms = order.iter().enumerate();
    let rooms =
        rooms.map(|(position, &device)| free[device].checked_sub(demand.fixed(position, order.len())));
    let mut rooms: Vec<u64> = rooms.collect::<Option<_>>()?;
    let capacity: u64 = rooms.iter().map(|room| room / demand.layer()).sum();
    if capacity < demand.layers as u64 {
        return None;
    }
    let mut loads: Vec<Load> = order.iter().map(|&device| Load { device, layers: 0 }).collect();
    for _ in 0..demand.layers {
        // There is room for one more in all of them together, so there is in the emptiest.
        let (emptiest, room) = rooms.iter_mut().enumerate().rev().max_by_key(|(_, room)| **room)?;
        *room -= demand.layer();
        loads[emptiest].layers += 1;
    }
    Some(loads)
}

/// Bytes in GiB.
pub(super) struct Gib(pub(super) u64);

impl fmt::Display for Gib {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:.2} GiB", self.0 as f64 / f64::from(1 << 30))
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { demand, free } = self;
        let count = free.len();
        write!(
            f,
            "models and caches need {} on {count} device(s), of which {} are free: {} layers of {}",
            Gib(demand.total(count)),
            Gib(free.iter().sum()),
            demand.layers,
            Gib(demand.layer()),
        )?;
        for (device, &free) in free.iter().enumerate() {
            let fixed = demand.fixed(device, count);
            write!(f, "; cuda:{device} has {} free and needs {} besides layers, ", Gib(free), Gib(fixed))?;
            match free.checked_sub(fixed) {
                Some(room) => write!(f, "room for {} of them", room / demand.layer())?,
                None => write!(f, "too little for any")?,
            }
        }
        write!(f, ". Free memory, lower max_length, or name a 16-bit dtype")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    /// Of the size of a model with 32 layers of 8 billion weights in 16 bits.
    fn demand() -> Demand {
        Demand {
            layers: 32,
            layer_weights: 400 << 20,
            layer_cache: 100 << 20,
            embedding: GIB,
            output: GIB,
            draft: GIB / 2,
            copies: GIB,
            working: GIB,
        }
    }

    fn loads(demand: &Demand, free: &[u64]) -> Vec<(usize, usize)> {
        let loads = place(demand, free).expect("it fits");
        loads.into_iter().map(|Load { device, layers }| (device, layers)).collect()
    }

    #[test]
    fn one_device_holds_everything_if_it_can() {
        // 32 layers are 15.625 GiB, the rest is 3.5 GiB: copies are not needed on one device.
        let exact = 32 * (500 << 20) + 3 * GIB + GIB / 2;
        assert_eq!(loads(&demand(), &[exact]), [(0, 32)]);
        assert!(place(&demand(), &[exact - 1]).is_err());
        // The one with the most memory; the first of equals.
        assert_eq!(loads(&demand(), &[20 * GIB, 24 * GIB, 22 * GIB]), [(1, 32)]);
        assert_eq!(loads(&demand(), &[24 * GIB; 4]), [(0, 32)]);
    }

    #[test]
    fn two_devices_share_the_layers_by_what_is_left_beside_the_rest() {
        // 14 - 2 = 12 GiB and 14 - 3.5 = 10.5 GiB before layers of 0.488 GiB: three more on the
        // first.
        assert_eq!(loads(&demand(), &[14 * GIB, 14 * GIB]), [(0, 18), (1, 14)]);
        // 5 and 14.5 GiB, 16 and 3.5: half of the 3.875 that are left in the end on each, as far as
        // layers go.
        assert_eq!(loads(&demand(), &[7 * GIB, 18 * GIB]), [(0, 6), (1, 26)]);
        assert_eq!(loads(&demand(), &[18 * GIB, 7 * GIB]), [(0, 29), (1, 3)]);
    }

    #[test]
    fn the_fewest_devices_are_those_with_the_most_memory() {
        assert_eq!(loads(&demand(), &[4 * GIB, 14 * GIB, 2 * GIB, 15 * GIB]), [(1, 17), (3, 15)]);
        let three = loads(&demand(), &[9 * GIB, GIB / 2, 9 * GIB, 9 * GIB]);
        assert_eq!(three.iter().map(|&(device, _)| device).collect::<Vec<_>>(), [0, 2, 3]);
    }

    #[test]
    fn the_largest_device_comes_last_if_only_it_has_room_for_what_the_last_one_holds() {
        let demand = Demand { draft: 10 * GIB, ..demand() };
        // 12.5 GiB besides layers: the second device has not so much.
        assert_eq!(loads(&demand, &[20 * GIB, 12 * GIB])[1].0, 0);
        // A device without a layer is there for what else it holds.
        let demand = Demand { embedding: 6 * GIB, draft: 20 * GIB, ..demand };
        assert_eq!(loads(&demand, &[7 * GIB + 1, 39 * GIB]), [(0, 0), (1, 32)]);
    }

    #[test]
    fn a_shortage_says_what_is_needed_and_what_there_is_on_each_device() {
        let shortage = place(&demand(), &[8 * GIB, 3 * GIB, GIB]).expect_err("it does not fit");
        assert_eq!(
            shortage.to_string(),
            "models and caches need 22.12 GiB on 3 device(s), of which 12.00 GiB are free: 32 layers of 0.49 GiB; \
             cuda:0 has 8.00 GiB free and needs 2.00 GiB besides layers, room for 12 of them; \
             cuda:1 has 3.00 GiB free and needs 1.00 GiB besides layers, room for 4 of them; \
             cuda:2 has 1.00 GiB free and needs 3.50 GiB besides layers, too little for any. \
             Free memory, lower max_length, or name a 16-bit dtype"
        );
    }

    fn demands() -> impl Strategy<Value = Demand> {
        let layer = (1u64..9, 0u64..4);
        let rest = (0u64..20, 0u64..20, 0u64..20, 0u64..20, 0u64..4);
        (7usize..20, layer, rest).prop_map(|(layers, (layer_weights, layer_cache), rest)| {
            let (embedding, output, draft, copies, working) = rest;
            Demand { layers, layer_weights, layer_cache, embedding, output, draft, copies, working }
        })
    }

    /// All orders of all selections of `count` devices.
    fn selections(devices: &[usize], count: usize) -> Vec<Vec<usize>> {
        if count == 0 {
            return vec![Vec::new()];
        }
        let with = |&first: &usize| {
            let others: Vec<usize> = devices.iter().copied().filter(|&device| device != first).collect();
            let rests = selections(&others, count - 1);
            rests.into_iter().map(move |rest| [vec![first], rest].concat()).collect::<Vec<_>>()
        };
        devices.iter().flat_map(with).collect()
    }

    proptest! {
        #[test]
        fn no_fewer_devices_would_do_and_all_that_do_are_found(
            demand in demands(), free in prop::collection::vec(0u64..120, 1..5),
        ) {
            let devices: Vec<usize> = (0..free.len()).collect();
            let does = |count| selections(&devices, count).iter().any(|order| fill(&demand, &free, order).is_some());
            let fewest = (1..=free.len()).find(|&count| does(count));
            prop_assert_eq!(place(&demand, &free).ok().map(|loads| loads.len()), fewest);
        }

        #[test]
        fn every_layer_has_a_place_and_no_device_holds_more_than_it_can(
            demand in demands(), free in prop::collection::vec(0u64..200, 1..7),
        ) {
            let Ok(loads) = place(&demand, &free) else { return Ok(()) };
            prop_assert_eq!(loads.iter().map(|load| load.layers).sum::<usize>(), demand.layers);
            let left = loads.iter().enumerate().map(|(position, load)| {
                let held = demand.fixed(position, loads.len()) + load.layers as u64 * demand.layer();
                free[load.device].checked_sub(held)
            });
            let left: Option<Vec<u64>> = left.collect();
            prop_assert!(left.is_some());
            // No layer elsewhere would leave more on the fullest device.
            let left = left.unwrap_or_default();
            let fullest = (0..left.len()).min_by_key(|&device| left[device]).unwrap_or_default();
            if loads.len() > 1 && loads[fullest].layers > 0 {
                let most = left.iter().max().copied().unwrap_or_default();
                prop_assert!(most <= left[fullest] + demand.layer());
            }
        }
    }
}
