//! Who is there: the lives of an app's service instances, in order of birth, by place.
//!
//! A **place** is one copy of a service under one owner (release and epoch); it has one life at a time, and a history.

use model::app::Serving;
use model::{Condition, Instance, InstanceId, Name, Purpose, Timestamp};

use super::Facts;

/// One instance of a service of the app.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life<'a> {
    pub(super) instance: &'a Instance,
    pub(super) owner: Serving,
    pub(super) service: &'a Name,
    pub(super) index: u16,
}

/// Everything that belongs to the app, oldest first.
#[derive(Debug)]
pub(super) struct Census<'a> {
    pub(super) lives: Vec<Life<'a>>,
    pub(super) jobs: Vec<(&'a Name, &'a Instance)>,
}

impl<'a> Census<'a> {
    pub(super) fn take(facts: &Facts<'a>) -> Self {
        let mut census = Self {
            lives: Vec::new(),
            jobs: Vec::new(),
        };
        for instance in facts.instances {
            match &instance.purpose {
                Purpose::Service {
                    app,
                    release,
                    epoch,
                    service,
                    index,
                } if *app == facts.app.id => {
                    let owner = Serving {
                        release: *release,
                        epoch: *epoch,
                    };
                    census.lives.push(Life {
                        instance,
                        owner,
                        service,
                        index: *index,
                    });
                }
                Purpose::Job { app, job, .. } if *app == facts.app.id => census.jobs.push((job, instance)),
                Purpose::Service { .. }
                | Purpose::Job { .. }
                | Purpose::Database { .. }
                | Purpose::Receiver { .. }
                | Purpose::Pooler { .. } => {}
            }
        }
        census.lives.sort_by_key(Life::birth);
        census
            .jobs
            .sort_by_key(|(_, instance)| (instance.created_at, instance.id));
        census
    }

    /// The lives of one place, oldest first.
    pub(super) fn place(&self, owner: Serving, service: &Name, index: u16) -> Vec<Life<'a>> {
        let is_here =
            |life: &&Life<'a>| life.owner == owner && life.service == service && life.index == index;
        self.lives.iter().filter(is_here).copied().collect()
    }

    /// The active lives of a service, whoever owns them, oldest first.
    pub(super) fn active(&self, service: &Name) -> Vec<Life<'a>> {
        let is_here = |life: &&Life<'a>| life.service == service && life.is_active();
        self.lives.iter().filter(is_here).copied().collect()
    }
}

impl Life<'_> {
    pub(super) fn id(&self) -> InstanceId {
        self.instance.id
    }

    /// Orders lives: later is greater.
    pub(super) fn birth(&self) -> (Timestamp, InstanceId) {
        (self.instance.created_at, self.instance.id)
    }

    /// Whether it is meant to work: not told to end, and not ended.
    pub(super) fn is_active(&self) -> bool {
        match self.instance.condition {
            Condition::Starting { .. } | Condition::Ready { .. } | Condition::Unready { .. } => true,
            Condition::Draining { .. } | Condition::Stopping { .. } | Condition::Exited { .. } => false,
        }
    }

    /// When its work ended, if it has.
    pub(super) fn end(&self) -> Option<Timestamp> {
        match self.instance.condition {
            Condition::Starting { .. } | Condition::Ready { .. } | Condition::Unready { .. } => None,
            Condition::Draining { since } | Condition::Stopping { since } => Some(since),
            Condition::Exited { at, .. } => Some(at),
        }
    }
}
