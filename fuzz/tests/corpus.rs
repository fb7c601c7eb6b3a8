//! Every target over its committed texts and some thousand seeded changes of them: what `cargo xtask fuzz` does for
//! minutes, in seconds and without libFuzzer.

use std::path::PathBuf;

use fuzz::{TARGETS, Target};

/// Changes tried for each target; a change is that of one of its texts.
const CHANGES: u64 = 2_000;
/// Longer texts only repeat what shorter ones show.
const LENGTH_MAX: usize = 16 << 10;

/// Pieces that readers treat in their own ways.
const PIECES: &[&str] = &[
    "\n",
    "  ",
    "\t",
    "\0",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "\\",
    "#",
    "&a ",
    "*a",
    "<<: ",
    "!",
    "|\n",
    "---\n",
    "$",
    "${",
    "$$",
    "=",
    "..",
    "/",
    "%",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "ü",
    "\u{10ffff}",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "18446744073709551616",
    "0x",
    ".inf",
    "services",
    "environments",
    "image",
    "ports",
    "[[",
    "]]",
    "\"\"\"",
];

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|why| panic!("{}: {why}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).expect("a file"))
        .collect()
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % bound.max(1) as u64).expect("below a usize")
    }

    /// A text like one of these, but for some changes.
    fn changed(&mut self, texts: &[Vec<u8>]) -> Vec<u8> {
        let mut text = texts[self.below(texts.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(text.len() + 1);
            match self.below(6) {
                0 => drop(text.splice(at..at, PIECES[self.below(PIECES.len())].bytes())),
                1 => {
                    let end = (at + 1 + self.below(12)).min(text.len());
                    drop(text.drain(at..end));
                }
                2 => {
                    if let Some(byte) = text.get_mut(at) {
                        *byte ^= 1 << self.below(7);
                    }
                }
                3 => {
                    let end = (at + 1 + self.below(60)).min(text.len());
                    let part = text[at..end].to_vec();
                    let times = 1 + self.below(40);
                    drop(text.splice(at..at, part.repeat(times)));
                }
                4 => {
                    let other = &texts[self.below(texts.len())];
                    let from = self.below(other.len() + 1);
                    drop(text.splice(at.., other[from..].iter().copied()));
                }
                _ => text.truncate(at),
            }
            text.truncate(LENGTH_MAX);
        }
        text
    }
}

#[test]
fn every_target_has_texts_and_all_texts_a_target() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut folders: Vec<String> = std::fs::read_dir(folder)
        .expect("a corpus")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    folders.sort();
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(folders, names);
}

#[test]
fn no_text_breaks_its_reader() {
    for target in TARGETS {
        let texts = corpus(target);
        assert!(!texts.is_empty(), "{} has no texts", target.name);
        for text in &texts {
            (target.run)(text);
        }
        for seed in 0..CHANGES {
            let text = Dice(seed).changed(&texts);
            let outcome = std::panic::catch_unwind(|| (target.run)(&text));
            assert!(
                outcome.is_ok(),
                "{} broke with seed {seed}:\n{}",
                target.name,
                String::from_utf8_lossy(&text)
            );
        }
    }
    fuzz::door::close();
}

/// The control: a reader that breaks is seen.
#[test]
fn a_reader_that_breaks_is_seen() {
    let texts = vec![b"services: {a: [b]}".to_vec()];
    let fragile = |text: &[u8]| assert!(!text.windows(2).any(|part| part == b"[["), "broken");
    let broke = (0..CHANGES)
        .filter(|seed| {
            let text = Dice(*seed).changed(&texts);
            std::panic::catch_unwind(|| fragile(&text)).is_err()
        })
        .count();
    assert!(broke > 10, "only {broke} changes are hostile");
}
