use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;

fn settings(dir: &Path, label: &str, segment_bytes: u64, max_bytes: u64) -> Settings {
    Settings {
        dir: dir.to_owned(),
        label: label.to_owned(),
        segment_bytes,
        max_bytes,
        rate_bytes_per_s: 0,
    }
}

fn read_all(reader: &mut Reader) -> Vec<Record> {
    let mut all = Vec::new();
    loop {
        let batch = reader.read(100).unwrap();
        if batch.is_empty() {
            return all;
        }
        all.extend(batch);
    }
}

fn texts(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|r| String::from_utf8_lossy(&r.text).into_owned())
        .collect()
}

#[test]
fn lines_pieces_and_streams_come_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(settings(dir.path(), "a", 1 << 20, 1 << 20));
    writer.push(Stream::Stdout, b"one\ntw", 10);
    writer.push(Stream::Stderr, b"bad\n", 9);
    writer.push(Stream::Stdout, b"o\nprompt> ", 11);
    assert!(writer.holds_back());
    writer.release();
    writer.push(Stream::Stdout, &[b'x'; MAX_LINE_BYTES + 5], 12);
    writer.push(Stream::Stdout, b"\nlast", 13);
    writer.flush();
    assert_eq!(writer.finish(), 0);
    let records = read_all(&mut Reader::open(dir.path(), Query::default()).unwrap());
    let kinds: Vec<Kind> = records.iter().map(|r| r.kind.clone()).collect();
    use Stream::{Stderr, Stdout};
    let (line, piece) = (Kind::Line(Stdout), Kind::Piece(Stdout));
    assert_eq!(
        kinds,
        [
            line.clone(),
            Kind::Line(Stderr),
            line.clone(),
            piece.clone(),
            piece,
            line.clone(),
            line
        ]
    );
    assert_eq!(texts(&records)[..4], ["one", "bad", "two", "prompt> "]);
    assert_eq!(records[5].text.len(), 5);
    assert!(
        records
            .windows(2)
            .all(|w| w[0].time_us <= w[1].time_us && w[0].sequence < w[1].sequence)
    );
}

#[test]
fn a_follower_survives_rotation_and_the_ring_tells_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(settings(dir.path(), "a", 200, 1000));
    let mut follower = Reader::open(dir.path(), Query::default()).unwrap();
    let mut late = None;
    let mut seen = Vec::new();
    for n in 0..200u64 {
        writer.push(Stream::Stdout, format!("line {n}\n").as_bytes(), n);
        writer.flush();
        seen.extend(follower.read(10).unwrap());
        if n == 0 {
            let mut reader = Reader::open(dir.path(), Query::default()).unwrap();
            assert_eq!(reader.read(1).unwrap().len(), 1);
            late = Some(reader);
        }
    }
    let wanted: Vec<String> = (0..200).map(|n| format!("line {n}")).collect();
    assert_eq!(texts(&seen), wanted);
    let total: u64 = segments(dir.path())
        .unwrap()
        .iter()
        .map(|segment| segment.bytes)
        .sum();
    assert!(total <= 1200, "{total}");
    let rest = read_all(&mut late.unwrap());
    assert!(rest.iter().any(|r| matches!(r.kind, Kind::Gap { .. })));
    assert_eq!(texts(&rest).last().unwrap(), "line 199");
}

#[test]
fn labels_merge_by_time_and_since_tail_after_select() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = Writer::open(settings(dir.path(), "a", 1 << 20, 1 << 20));
    let mut b = Writer::open(settings(dir.path(), "b", 1 << 20, 1 << 20));
    for n in 0..10u64 {
        let (writer, name) = if n % 2 == 0 { (&mut a, "a") } else { (&mut b, "b") };
        writer.push(Stream::Stdout, format!("{name}{n}\n").as_bytes(), n);
        writer.flush();
    }
    let read = |query: Query| texts(&read_all(&mut Reader::open(dir.path(), query).unwrap()));
    assert_eq!(
        read(Query::default()),
        ["a0", "b1", "a2", "b3", "a4", "b5", "a6", "b7", "a8", "b9"]
    );
    assert_eq!(
        read(Query {
            since_us: 8,
            ..Query::default()
        }),
        ["a8", "b9"]
    );
    assert_eq!(
        read(Query {
            tail: Some(3),
            ..Query::default()
        }),
        ["b7", "a8", "b9"]
    );
    assert_eq!(
        read(Query {
            labels: ["b".into()].into(),
            tail: Some(2),
            ..Query::default()
        }),
        ["b7", "b9"]
    );
    let first = Reader::open(dir.path(), Query::default())
        .unwrap()
        .read(5)
        .unwrap();
    let after: BTreeMap<String, Position> = first.iter().map(|r| (r.label.to_string(), r.after)).collect();
    assert_eq!(
        read(Query {
            after,
            ..Query::default()
        }),
        ["b5", "a6", "b7", "a8", "b9"]
    );
    // A new life of the same label goes on in a new segment.
    let mut again = Writer::open(settings(dir.path(), "a", 1 << 20, 1 << 20));
    again.push(Stream::Stdout, b"a10\n", 10);
    again.flush();
    assert_eq!(
        read(Query {
            tail: Some(2),
            ..Query::default()
        }),
        ["b9", "a10"]
    );
}

#[test]
fn torn_and_foreign_lines_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(settings(dir.path(), "a", 1 << 20, 1 << 20));
    writer.push(Stream::Stdout, b"good\n", 1);
    writer.flush();
    let path = segment_path(dir.path(), "a", 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(b"\0\0\0\0\n12 torn");
    fs::write(&path, bytes).unwrap();
    fs::write(dir.path().join("stranger.txt"), "x").unwrap();
    assert_eq!(
        texts(&read_all(
            &mut Reader::open(dir.path(), Query::default()).unwrap()
        )),
        ["good"]
    );
}

#[test]
fn over_the_rate_is_dropped_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let rate = Settings {
        rate_bytes_per_s: 1000,
        ..settings(dir.path(), "a", 1 << 20, 1 << 20)
    };
    let mut writer = Writer::open(rate);
    for n in 0..10_000u64 {
        writer.push(Stream::Stdout, b"0123456789 0123456789\n", n);
    }
    writer.flush();
    let lost = writer.finish();
    let records = read_all(&mut Reader::open(dir.path(), Query::default()).unwrap());
    let gap = records.iter().find_map(|r| {
        if let Kind::Gap { bytes, .. } = r.kind {
            Some(bytes)
        } else {
            None
        }
    });
    assert!(
        lost > 100_000 && gap.is_some_and(|bytes| bytes > 100_000),
        "{lost} {gap:?}"
    );
    assert!(records.len() > 50);
}

/// A follower looks several times a second: it must not read again what it has seen, nor what ended long ago.
#[test]
fn since_begins_near_its_moment_and_gives_what_reading_all_gives() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(settings(dir.path(), "a", 300_000, 10 << 20));
    let line = |n: u64| {
        format!(
            "line {n} {}\n",
            "x".repeat(usize::try_from(n * 37 % 200).unwrap())
        )
    };
    for n in 1..=10_000 {
        writer.push(Stream::Stdout, line(n).as_bytes(), n / 3 * 10);
        writer.flush();
    }
    let count = segments(dir.path()).unwrap().len();
    assert!(count > 3, "{count}");
    let read = |since_us| {
        let query = Query {
            since_us,
            ..Query::default()
        };
        texts(&read_all(&mut Reader::open(dir.path(), query).unwrap()))
    };
    for since_us in (0..=33_340).step_by(479).chain([10, 33_330, 33_331]) {
        let expected: Vec<String> = (1..=10_000)
            .filter(|n| n / 3 * 10 >= since_us)
            .map(|n| line(n).trim_end_matches('\n').to_owned())
            .collect();
        assert!(read(since_us) == expected, "since {since_us}");
    }
    // What lies before cannot even be read any more, nor can a label that was silent since: nobody tries.
    let old = segment_path(dir.path(), "silent", 1);
    for path in [segment_path(dir.path(), "a", 1), old.clone()] {
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
    }
    assert!(
        Reader::open(dir.path(), Query::default())
            .unwrap()
            .read(1)
            .is_err(),
        "the control"
    );
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    fs::File::open(&old).unwrap().set_modified(long_ago).unwrap();
    let since_us = 60_000_000 + 33_330;
    let mut reader = Reader::open(
        dir.path(),
        Query {
            since_us,
            ..Query::default()
        },
    )
    .unwrap();
    assert!(reader.read(10).unwrap().is_empty());
    writer.push(Stream::Stdout, b"news\n", since_us);
    writer.flush();
    assert_eq!(texts(&read_all(&mut reader)), ["news"]);
}

#[test]
fn a_segment_deleted_under_its_writer_is_followed_by_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(settings(dir.path(), "a", 1 << 20, 1 << 20));
    writer.push(Stream::Stdout, b"before\n", 1);
    writer.flush();
    fs::remove_file(segment_path(dir.path(), "a", 1)).unwrap();
    writer.push(Stream::Stdout, b"after\n", 2);
    writer.flush();
    assert_eq!(writer.finish(), 0);
    let found = read_all(&mut Reader::open(dir.path(), Query::default()).unwrap());
    assert_eq!(texts(&found), ["after"]);
}
