//! The safeguards of the edge, and that their tests notice when one is switched off (`edge::planted`).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use edge::control::ClientError;
use edge::table::Table;

use crate::lifecycle::{Warden, replaced_under_load};
use crate::publishing::Load;
use crate::support::{Backend, route, table};

const BAD_TABLES: usize = 10_000;
/// Where the damage comes from.
const SEED: u64 = 0x5EED_7AB1;
/// One in so many is larger than any table may be.
const OVERSIZED_EVERY: usize = 250;
/// One in so many is no sentence of the protocol at all.
const GIBBERISH_EVERY: usize = 100;
const GENERATION: u64 = 7;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

/// Tables that are wrong in one way each.
fn wrong(good: &Table) -> Vec<Vec<u8>> {
    let changed = |change: &dyn Fn(&mut Table)| {
        let mut table = good.clone();
        table.generation = GENERATION + 1;
        change(&mut table);
        serde_json::to_vec(&table).unwrap()
    };
    let text = String::from_utf8(changed(&|_| {})).unwrap();
    vec![
        Vec::new(),
        b"null".to_vec(),
        b"{}".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        "[".repeat(100_000).into_bytes(),
        text.replace("\"version\":1", "\"version\":2").into_bytes(),
        text.replace("127.0.0.1", "not an address").into_bytes(),
        text.replacen('{', "{\"surprise\":1,", 1).into_bytes(),
        changed(&|t| t.routes.extend(good.routes.clone())),
        changed(&|t| t.services.extend(good.services.clone())),
        changed(&|t| t.services[0].targets.extend(good.services[0].targets.clone())),
        changed(&|t| t.services[0].targets[0].addr = "169.254.169.254:80".parse().unwrap()),
        changed(&|t| t.routes[0].service = "nobody".to_owned()),
        changed(&|t| t.routes[0].host = "*".to_owned()),
        changed(&|t| t.generation = GENERATION - 1),
        changed(&|t| {
            t.generation = GENERATION;
            t.routes.pop();
        }),
    ]
}

/// The good one with some bytes cut, changed or doubled. What is still a table is another one, and no newer one.
fn damaged(good: &Table, random: &mut Random) -> Vec<u8> {
    let text = serde_json::to_vec(good).unwrap();
    loop {
        let mut bytes = text.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len().max(1)).min(bytes.len());
            match random.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, random.below(256) as u8),
                2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
                2 | 3 => {
                    let end = (at + random.below(64)).min(bytes.len());
                    bytes.extend_from_within(at..end);
                }
                other => panic!("{other}"),
            }
        }
        let is_taken = |table: Table| table.generation > GENERATION || table == *good;
        if !serde_json::from_slice(&bytes).is_ok_and(is_taken) {
            return bytes;
        }
    }
}

/// Speaks as nobody should, and leaves.
fn gibber(socket: &Path, n: usize) {
    let sentences: [&[u8]; 6] = [
        b"hello\n",
        b"{\"v\":1,\"do\":{\"publish\":{\"bytes\":100}}}\nonly this",
        b"{\"v\":1,\"do\":{\"publish\":{\"bytes\":18446744073709551615}}}\n",
        b"{\"v\":9,\"do\":\"status\"}\n",
        b"{\"v\":1,\"do\":\"dance\"}\n",
        b"no end of a line",
    ];
    let mut stream = UnixStream::connect(socket).unwrap();
    // Either side may have closed already.
    let _closed = stream.write_all(sentences[n % sentences.len()]);
    let _closed = stream.shutdown(std::net::Shutdown::Write);
    let _reply = stream.read_to_end(&mut Vec::new());
}

fn bad_tables_change_nothing(count: usize, env: &[(&str, &str)]) {
    println!("seed {SEED:#x}");
    let (warden, backend, ws) = (Warden::new(), Backend::start("b"), Backend::start("ws"));
    let edge = warden.start(env);
    let mut client = warden.client(&edge);
    let mut good = table(GENERATION, &[("a", &[&backend]), ("ws", &[&ws])]);
    good.routes.push(route("b", "/", "a"));
    client.publish(&good).unwrap();
    let kept = std::fs::read(warden.path().join("edge/routes.json")).unwrap();
    let load = Load::start(warden.address, 2, 1, 1);
    load.go_on(50);
    let (documents, text) = (wrong(&good), serde_json::to_vec(&good).unwrap());
    let mut oversized = vec![b' '; 17 << 20];
    oversized.extend(&text);
    let mut random = Random(SEED);
    for n in 0..count {
        let document = if n % OVERSIZED_EVERY == 0 {
            oversized.clone()
        } else if n % 2 == 0 {
            damaged(&good, &mut random)
        } else {
            documents[n / 2 % documents.len()].clone()
        };
        match client.publish_document(&document) {
            Err(ClientError::Refused { problems }) => assert!(!problems.is_empty()),
            other => {
                let document = String::from_utf8_lossy(&document[..document.len().min(2000)]).into_owned();
                panic!("document {n} was not refused: {other:?}\n{document}")
            }
        }
        if n % GIBBERISH_EVERY == 0 {
            gibber(&warden.path().join("edge.sock"), n / GIBBERISH_EVERY);
        }
    }
    let answered = load.finish();
    println!("{count} bad tables, {answered} requests answered, none failed");
    assert_eq!(client.status().unwrap().generation, GENERATION);
    assert_eq!(
        std::fs::read(warden.path().join("edge/routes.json")).unwrap(),
        kept
    );
    // The same table again is no change, and is acknowledged by the same process.
    assert_eq!(client.publish(&good).unwrap().generation, GENERATION);
}

/// F48, R19.
#[test]
fn f48_ten_thousand_bad_tables_under_load_change_nothing() {
    bad_tables_change_nothing(BAD_TABLES, &[]);
}

#[test]
#[should_panic(expected = "failures, first")]
fn without_the_last_good_table_bad_tables_fail_requests() {
    bad_tables_change_nothing(200, &[("WITHOUT", "last-good-table")]);
}

/// Either the requests of the load are cut, or the WebSocket of the first edge: whatever is looked at first.
#[test]
#[should_panic]
fn without_draining_a_replaced_edge_fails_requests() {
    replaced_under_load(&[("WITHOUT", "draining")]);
}
