//! Which tiers of candidates are worth keeping: as many of the best as it takes to fill the list of candidates. A better
//! tier is a better score whatever else there is, so the rest could not get into it.

use super::decision::MAX_CANDIDATES;

/// Counts candidates by tier.
pub(super) struct Tiers {
    /// Tiers and how many are of each, best first. They are few, so a short list beats a map.
    sizes: Vec<(i32, usize)>,
    lowest: i32,
}

impl Default for Tiers {
    fn default() -> Self {
        Self { sizes: Vec::new(), lowest: i32::MIN }
    }
}

impl Tiers {
    /// Counts one of a tier. `false` when enough better ones have been seen already.
    pub(super) fn admit(&mut self, tier: i32) -> bool {
        if tier < self.lowest {
            return false;
        }
        match self.sizes.binary_search_by(|(known, _)| tier.cmp(known)) {
            Ok(at) => self.sizes[at].1 += 1,
            Err(at) => self.sizes.insert(at, (tier, 1)),
        }
        let mut above = 0;
        let full = self.sizes.iter().find(|(_, size)| {
            above += size;
            above >= MAX_CANDIDATES
        });
        self.lowest = full.map_or(i32::MIN, |(tier, _)| *tier);
        true
    }

    /// The lowest tier that is still worth keeping.
    pub(super) const fn lowest(&self) -> i32 {
        self.lowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_tiers_count_until_better_ones_fill_the_list() {
        let mut tiers = Tiers::default();
        assert!((0..1000).all(|_| tiers.admit(1)) && !tiers.admit(0));
        assert!((0..MAX_CANDIDATES - 1).all(|_| tiers.admit(3)));
        assert_eq!(tiers.lowest(), 1);
        assert!(tiers.admit(2) && tiers.lowest() == 2 && !tiers.admit(1) && tiers.admit(3));
        assert_eq!(tiers.lowest(), 3);
    }

    #[test]
    fn few_are_all_kept() {
        let mut tiers = Tiers::default();
        assert!([-1, 5, 2, i32::MIN].into_iter().all(|tier| tiers.admit(tier)));
        assert_eq!(tiers.lowest(), i32::MIN);
    }
}
