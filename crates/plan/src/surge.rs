//! How far a rollout may exceed and fall below the wanted number of instances.

/// Bounds of a rollout for one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surge {
    over: u16,
    under: u16,
}

/// Up to this count all new instances start beside the old ones: the switch is then one step, and a return costs nothing.
const SMALL: u16 = 2;

impl Surge {
    /// Refused when neither may exceed nor fall below the count: such a rollout could never move.
    #[must_use]
    pub fn new(over: u16, under: u16) -> Option<Self> {
        (over > 0 || under > 0).then_some(Self { over, under })
    }

    /// Everything at once for small counts, else a quarter more, never less.
    #[must_use]
    pub fn usual(count: u16) -> Self {
        let over = if count <= SMALL {
            count.max(1)
        } else {
            count.div_ceil(4)
        };
        Self { over, under: 0 }
    }

    /// The number of ready instances below which nothing is taken away.
    #[must_use]
    pub fn floor(self, count: u16) -> usize {
        usize::from(count.saturating_sub(self.under))
    }

    /// The number of instances that may run, draining ones apart.
    #[must_use]
    pub fn ceiling(self, count: u16) -> usize {
        usize::from(count) + usize::from(self.over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert_eq!(Surge::new(0, 0), None);
        let tight = Surge::new(0, 1).expect("may fall below");
        assert_eq!((tight.floor(4), tight.ceiling(4), tight.floor(0)), (3, 4, 0));
        for (count, over) in [(0, 1), (1, 1), (2, 2), (3, 1), (4, 1), (5, 2), (100, 25)] {
            assert_eq!(Surge::usual(count), Surge { over, under: 0 }, "{count}");
        }
    }
}
