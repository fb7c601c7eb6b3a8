use super::*;

const KEPT: Bytes = Bytes::mi(64);

fn at(second: u64) -> Timestamp {
    Timestamp::from_ms(second * 1000)
}

fn lsn(bytes: u64) -> Lsn {
    Lsn::new(bytes)
}

fn look(written: u64, received: u64) -> Seen {
    Seen {
        written: lsn(written),
        received: Some(lsn(received)),
        is_streaming: true,
        is_held: false,
        waiting: Vec::new(),
    }
}

#[test]
fn what_is_late_is_told_from_when_it_was_written_until_it_is_received() {
    let mut memory = Memory::default();
    let mut told = None;
    // (second, written, received, since when it is told)
    for (second, written, received, since) in [
        (0, 100, 100, None),
        (30, 200, 100, None),
        (60, 300, 100, None),
        (89, 300, 100, None),
        (90, 300, 100, Some(30)),
        // What was written at 30 is there; what was at 60 is not, and it is half as old as what would begin it.
        (95, 400, 250, Some(60)),
        (100, 400, 350, None),
        (105, 400, 400, None),
        (300, 400, 400, None),
    ] {
        memory.note(&look(written, received), at(second));
        told = memory.behind(told, KEPT, at(second));
        assert_eq!(told.map(|behind| behind.since), since.map(at), "at {second} s");
    }
}

#[test]
fn much_is_told_before_it_is_late_and_not_at_once() {
    let mut memory = Memory::default();
    let much = Bytes::mi(32).get();
    memory.note(&look(much, 0), at(0));
    assert_eq!(memory.behind(None, KEPT, at(0)), None);
    memory.note(&look(much, 0), at(5));
    let told = memory.behind(None, KEPT, at(5));
    assert_eq!(told.map(|behind| behind.since), Some(at(0)));
    assert_eq!(memory.bytes(), Bytes::mi(32));
    // Less, and still more than half of it.
    memory.note(&look(much, much / 3), at(6));
    assert!(memory.behind(told, KEPT, at(6)).is_some());
    assert!(memory.behind(None, KEPT, at(6)).is_none());
}

#[test]
fn another_process_goes_on_where_one_was() {
    let behind = Behind {
        since: at(0),
        lsn: lsn(100),
    };
    let mut memory = Memory::of(Some(behind));
    memory.note(&look(500, 50), at(70));
    assert_eq!(memory.behind(Some(behind), KEPT, at(70)), Some(behind));
    memory.note(&look(500, 100), at(71));
    assert_eq!(memory.since(), Some(at(70)));
}

#[test]
fn of_many_looks_the_oldest_stays() {
    let mut memory = Memory::default();
    for second in 0..1000 {
        memory.note(&look(second + 1, 0), at(second));
    }
    assert_eq!(memory.since(), Some(at(0)));
    assert!(memory.marks.len() <= MARKS);
}

/// A server and its receiver, and our row, looked at each two seconds.
struct World {
    now: u64,
    level: Level,
    commits: Commits,
    is_held: bool,
    is_here: bool,
    memory: Memory,
    /// Of a commit that waits.
    began: Option<u64>,
    longest: u64,
}

impl World {
    fn new(level: Level) -> Self {
        Self {
            now: 0,
            level,
            commits: Commits::Free,
            is_held: false,
            is_here: true,
            memory: Memory::default(),
            began: None,
            longest: 0,
        }
    }

    /// `stored` and `told`: whether we live until the row is written, and until the server is told.
    fn look(&mut self, stored: bool, told: bool) {
        self.now += 2;
        match (self.is_held && !self.is_here, self.began) {
            (true, None) => self.began = Some(self.now),
            (false, Some(_)) => self.began = None,
            (true, Some(_)) | (false, None) => {}
        }
        let seen = Seen {
            written: lsn(self.now * 10),
            received: Some(lsn(if self.is_here { self.now * 10 } else { 0 })),
            is_streaming: self.is_here,
            is_held: self.is_held,
            waiting: self.began.map(|began| format!("1@{began}")).into_iter().collect(),
        };
        let now = at(self.now);
        self.memory.note(&seen, now);
        match self.memory.decide(self.level, self.commits, &seen, now) {
            Step::Nothing => {}
            Step::Hold => self.is_held |= told,
            Step::Note { to } if stored => self.commits = to,
            Step::Release { to } if stored => {
                self.commits = to;
                self.is_held &= !told;
            }
            Step::Note { .. } | Step::Release { .. } => {}
        }
        if !(stored && told) {
            self.memory = Memory::default();
        }
        if let Some(began) = self.began.filter(|_| self.is_held) {
            self.longest = self.longest.max(self.now - began);
        }
        // What the row promises, the server does.
        if let Commits::Held { .. } = self.commits {
            assert!(self.is_held, "at {} s the row says that commits wait", self.now);
        }
    }

    fn looks(&mut self, count: u32) {
        for _ in 0..count {
            self.look(true, true);
        }
    }
}

#[test]
fn commits_wait_are_let_go_and_wait_again() {
    let mut world = World::new(Level::Sync);
    world.looks(2);
    assert!(matches!(world.commits, Commits::Held { .. }) && world.is_held);
    world.is_here = false;
    world.looks(5);
    assert!(world.is_held, "a short while is waited for");
    world.looks(1);
    assert!(matches!(world.commits, Commits::Released { .. }) && !world.is_held);
    world.is_here = true;
    world.looks(5);
    assert!(!world.is_held, "it may go again at once");
    world.looks(2);
    assert!(matches!(world.commits, Commits::Held { .. }) && world.is_held);
    world.level = Level::Stream;
    world.looks(1);
    assert_eq!((world.commits, world.is_held), (Commits::Free, false));
}

#[test]
fn a_commit_that_waits_for_what_a_receiver_never_does_is_let_go() {
    // `remote_apply`: everything is received, and the commit waits all the same.
    let mut memory = Memory::default();
    let seen = |written| Seen {
        is_held: true,
        waiting: vec!["7@1.5".to_owned()],
        ..look(written, written)
    };
    let held = Commits::Held { since: at(0) };
    for second in 0..10 {
        memory.note(&seen(second), at(second));
        assert_eq!(
            memory.decide(Level::Sync, held, &seen(second), at(second)),
            Step::Nothing
        );
    }
    memory.note(&seen(10), at(10));
    assert!(matches!(
        memory.decide(Level::Sync, held, &seen(10), at(10)),
        Step::Release { .. }
    ));
}

#[test]
fn whatever_dies_and_when_no_commit_waits_for_ever() {
    for seed in 1..3000_u64 {
        let mut chance = seed;
        let mut next = |bound: u64| {
            chance = chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (chance >> 33) % bound
        };
        let mut world = World::new(Level::Sync);
        let mut deaths = 0;
        for _ in 0..60 {
            match next(12) {
                0 => world.is_here = !world.is_here,
                1 => {
                    world.level = match world.level {
                        Level::Sync => Level::Stream,
                        Level::Stream => Level::Sync,
                    }
                }
                _ => {}
            }
            // Death comes before the row, or between it and the server.
            let (stored, told) = match next(20) {
                0 => (false, false),
                1 => (true, false),
                _ => (true, true),
            };
            deaths += u64::from(!(stored && told));
            world.look(stored, told);
            assert!(
                world.longest <= (WAITS_AT_MOST.as_ms() / 1000 + 4) * (deaths + 1),
                "seed {seed}: a commit waited {} s",
                world.longest
            );
        }
        world.level = Level::Sync;
        world.is_here = true;
        world.looks(10);
        assert!(
            matches!(world.commits, Commits::Held { .. }) && world.is_held,
            "seed {seed}"
        );
    }
}
