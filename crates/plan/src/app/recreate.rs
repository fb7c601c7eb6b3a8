//! The old ends first, then the new starts: for programs of which no two may run at once.
//!
//! Invariants: nothing of the new release starts while anything else of the app lives (`begin` sees to that, for returns
//! too); the new release answers when it is promoted, not before.

use model::InstanceId;
use model::app::Serving;

use super::census::Life;
use super::view::{Place, View, mutant};
use super::{Cause, Why};

impl<'a> View<'a> {
    pub(super) fn recreate(&mut self, to: Serving) {
        let Some(new) = self.release(to) else { return };
        let serving = self.facts.app.serving.unwrap_or(to);
        self.spec = Some(serving.release);
        let is_wanted = |life: &Life<'_>| {
            let service = new.services.get(life.service);
            life.owner == to && service.is_some_and(|service| life.index < self.count(life.service, service))
        };
        let active = self.census.lives.iter().filter(|life| life.is_active());
        let others: Vec<InstanceId> = active.filter(|life| !is_wanted(life)).map(Life::id).collect();
        for other in others {
            self.retire(other, Cause::NotNeeded);
        }
        for (name, service) in &new.services {
            let count = self.count(name, service);
            let mut ready = 0;
            for index in 0..count {
                match self.tend(to, name, index) {
                    Place::Fit { life } => {
                        ready += 1;
                        self.held_back.extend(mutant!(AnswerEarly, None, Some(life)));
                    }
                    Place::Coming { .. } => {}
                    Place::Empty { next, earliest } => self.begin(next, earliest),
                }
            }
            self.note_waiting(name, ready, usize::from(count));
        }
        if !self.why.iter().any(|why| matches!(why, Why::Gap { .. })) {
            self.why.push(Why::Gap { ending: 0 });
        }
    }
}
