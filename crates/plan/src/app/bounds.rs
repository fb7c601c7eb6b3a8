//! How far a movement may exceed and fall below the wanted number of instances of one service.

use model::Surge;

/// Bounds for one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    over: u16,
    under: u16,
}

/// Up to this count all new instances start beside the old ones: the switch is then one step, and a return costs nothing.
const SMALL: u16 = 2;

impl Bounds {
    /// As asked; else everything at once for small counts, a quarter more for others, never less.
    pub(super) fn new(asked: Option<Surge>, count: u16) -> Self {
        match asked {
            Some(surge) => Self {
                over: surge.over(),
                under: surge.under(),
            },
            None if count <= SMALL => Self {
                over: count.max(1),
                under: 0,
            },
            None => Self {
                over: count.div_ceil(4),
                under: 0,
            },
        }
    }

    /// The number of ready instances below which nothing is taken away.
    pub(super) fn floor(self, count: u16) -> usize {
        usize::from(count.saturating_sub(self.under))
    }

    /// The number of instances that may run, draining ones apart.
    pub(super) fn ceiling(self, count: u16) -> usize {
        usize::from(count) + usize::from(self.over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let tight = Bounds::new(Surge::new(0, 1).ok(), 4);
        assert_eq!((tight.floor(4), tight.ceiling(4), tight.floor(0)), (3, 4, 0));
        for (count, over) in [(0, 1), (1, 1), (2, 2), (3, 1), (4, 1), (5, 2), (100, 25)] {
            assert_eq!(Bounds::new(None, count), Bounds { over, under: 0 }, "{count}");
        }
    }
}
