//! The simulated engine keeps the promise of the face.

use model::spec::Resources;

use super::*;

fn digest(letter: char) -> ImageDigest {
    format!("sha256:{}", letter.to_string().repeat(64))
        .parse()
        .expect("a digest")
}

fn workload(image: &ImageDigest) -> Workload {
    Workload {
        id: InstanceId::fresh(),
        hostname: "web".to_owned(),
        network: "n".to_owned(),
        image: image.clone(),
        command: Vec::new(),
        user: None,
        workdir: None,
        env: BTreeMap::new(),
        secrets: Vec::new(),
        resources: Resources::default(),
        uid_range: 1,
        volumes: Vec::new(),
        search_domain: String::new(),
        log_key: "app/web".to_owned(),
        log_label: "v1".to_owned(),
        probe: None,
        stop_signal: 15,
    }
}

#[test]
fn an_id_lives_once_and_ends_as_told() {
    let engine = Simulated::new();
    let image = digest('a');
    let exit = Exit::Code { code: 3 };
    engine.add_image(
        "a",
        &image,
        Behaviour {
            exits: Some((Millis::seconds(5), exit.clone())),
            ..Behaviour::default()
        },
    );
    let wanted = workload(&image);
    let first = engine.ensure(&wanted).expect("started");
    assert_eq!(engine.ensure(&wanted).expect("confirmed"), first);
    assert_eq!(engine.starts()[&wanted.id], 1);
    engine.set_now(Timestamp::from_ms(5000));
    let seen = engine.observe().expect("seen");
    assert_eq!(
        seen[0].phase,
        Phase::Exited {
            at: Timestamp::from_ms(5000),
            exit
        }
    );
}

#[test]
fn a_failing_host_leaves_nothing() {
    let engine = Simulated::new();
    engine.fail_next(1);
    assert!(engine.ensure(&workload(&digest('b'))).is_err());
    assert!(engine.observe().expect("seen").is_empty());
}

#[test]
fn calls_meet_the_fate_that_is_told() {
    let engine = Simulated::new();
    let wanted = workload(&digest('c'));
    let fates = [Fate::IsForgotten, Fate::FailsAfterwards, Fate::Happens];
    engine.set_judge(std::sync::Arc::new(move |call: &Call| {
        assert_eq!(call.uid_range, Some(1));
        fates[usize::try_from(call.before).expect("small") % fates.len()]
    }));
    assert!(engine.ensure(&wanted).is_ok() && engine.starts().is_empty());
    assert!(engine.ensure(&wanted).is_err() && engine.starts()[&wanted.id] == 1);
    assert!(engine.ensure(&wanted).is_ok() && engine.starts()[&wanted.id] == 1);
    assert!(engine.stop(wanted.id, Duration::ZERO).is_ok() && engine.stops(wanted.id) == 0);
    assert!(engine.stop(wanted.id, Duration::ZERO).is_err() && engine.stops(wanted.id) == 1);
    assert!(engine.remove(wanted.id).is_ok() && engine.removed().is_empty());
}

#[test]
fn a_check_flaps_as_told_and_says_when() {
    let engine = Simulated::new();
    let image = digest('d');
    let flaps = Some((Millis::seconds(10), Millis::seconds(3)));
    engine.add_image(
        "d",
        &image,
        Behaviour {
            flaps,
            ..Behaviour::default()
        },
    );
    let probe = crate::Probe {
        port: 80,
        health: model::Health::default(),
        speaks: crate::Speaks::Tcp,
    };
    let wanted = Workload {
        probe: Some(probe),
        ..workload(&image)
    };
    engine.ensure(&wanted).expect("started");
    for (at, is_ready, next) in [(0, true, 7), (7, false, 10), (9, false, 10), (10, true, 17)] {
        engine.set_now(Timestamp::from_ms(at * 1000));
        let seen = engine.observe().expect("seen");
        let is_up = matches!(
            &seen[0].phase,
            Phase::Running {
                ready: Some(Ok(())),
                ..
            }
        );
        assert_eq!(is_up, is_ready, "{at}");
        assert_eq!(
            engine.next_change(),
            Some(Timestamp::from_ms(next * 1000)),
            "{at}"
        );
    }
}
