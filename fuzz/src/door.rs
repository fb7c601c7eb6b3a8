//! What a stranger shows to come in, and where he asks a list to go on: access tokens, claim tokens, page tokens.
//!
//! Lives here: one server for all texts, over a real store and the simulated engine. Does not live here: the forms
//! themselves (`control`, `server`).
//! Invariant: `{live}` in a text stands for what counts at that server, so that a committed text can be near to it; no
//! other text counts.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};

use client::{Address, Client};
use control::routes::{EdgeLink, RouteTable};
use control::{Control, ControlError, Parts, Settings, people};
use model::{Actor, InstanceId, Timestamp};
use tempfile::TempDir;

struct NoEdge;
impl EdgeLink for NoEdge {
    fn publish(&self, _: &RouteTable) -> Result<(), String> {
        Ok(())
    }
    fn busy(&self, _: &[InstanceId]) -> Result<BTreeSet<InstanceId>, String> {
        Ok(BTreeSet::new())
    }
    fn requests(&self) -> Result<Vec<control::routes::Requests>, String> {
        Ok(Vec::new())
    }
    fn generation(&self) -> u64 {
        1
    }
}

/// Access tokens there are, so that their list has a second page.
const TOKENS: usize = 3;
/// The list, an item a page.
const LIST: &str = "/v1/tokens?limit=1";

/// The server. Fields are dropped in this order: it ends before its directory goes.
struct House {
    client: Client,
    _running: server::Running,
    control: Arc<Control>,
    /// What counts: a claim token, an access token, the next page.
    claim: String,
    token: String,
    next: String,
    _dir: TempDir,
}

impl House {
    fn build() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("run")).expect("run");
        let store_path = dir.path().join("store.db");
        let master =
            store::MasterKey::load_or_create(&dir.path().join("master.key"), &store_path).expect("a key");
        let now = store::Now {
            wall_ms: Timestamp::now().as_ms(),
            mono_ms: 0,
        };
        let control = Arc::new(Control::new(Parts::new(
            Arc::new(store::Store::open(&store_path, &master, now).expect("a store")),
            Arc::new(engine::simulated::Simulated::new()),
            Arc::new(NoEdge),
            Settings::new(dir.path().to_owned()),
        )));
        control::places::found(&control).expect("founded");
        let claim = people::offer_claim(&control)
            .expect("offered")
            .expect("unclaimed");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = dir.path().join(api::LOCAL_SOCKET);
        let local = UnixListener::bind(&socket).expect("a socket");
        let about = server::About {
            version: "fuzz".to_owned(),
            listeners: std::collections::BTreeMap::new(),
            requests_per_minute: 0,
        };
        let running = server::start(tcp, local, Arc::clone(&control), about).expect("started");
        let client = Client::new(Address::Unix(socket), None, None).expect("a client");
        let mut token = String::new();
        for number in 0..TOKENS {
            let body = api::CreateToken {
                name: format!("t{number}"),
                role: api::Role::Viewer,
                org: None,
                scopes: None,
                lifetime_s: None,
            };
            token = client.token_create(&body).expect("a token").token;
        }
        let first = client.raw("GET", LIST, None).expect("a page");
        let first: serde_json::Value = serde_json::from_slice(&first.body).expect("JSON");
        let next = first["next_page"].as_str().expect("a next page").to_owned();
        assert!(!next.is_empty(), "{first}");
        Self {
            client,
            _running: running,
            control,
            claim,
            token,
            next,
            _dir: dir,
        }
    }
}

static HOUSE: Mutex<Option<House>> = Mutex::new(None);

/// Asks the one server; it is built for the first text.
fn ask(data: &[u8], about: impl FnOnce(&House, &[u8])) {
    let mut house = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
    about(house.get_or_insert_with(House::build), data);
}

/// Ends the server and removes its directory.
pub fn close() {
    HOUSE.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// The text with what counts in its place.
fn shown(data: &[u8], live: &str) -> Option<String> {
    Some(std::str::from_utf8(data).ok()?.replace("{live}", live))
}

/// An access token lets its bearer in; any other text is met with the same answer.
pub(crate) fn token(data: &[u8]) {
    ask(data, |house, data| {
        let Some(text) = shown(data, &house.token) else {
            return;
        };
        match people::authenticate(&house.control, &text) {
            Ok(actor) => assert!(
                text == house.token && matches!(actor, Actor::Token { .. }),
                "{text:?} lets {actor:?} in"
            ),
            Err(ControlError::SignIn) => assert_ne!(text, house.token, "the token does not count"),
            Err(other) => panic!("{text:?}: {other}"),
        }
    });
}

/// No text but the claim token makes an owner, and a wrong one changes nothing. The right one would count only once.
pub(crate) fn claim(data: &[u8]) {
    ask(data, |house, data| {
        let Some(text) = shown(data, &house.claim) else {
            return;
        };
        if text == house.claim {
            return;
        }
        let answer = people::claim(&house.control, &text, None);
        assert!(matches!(answer, Err(ControlError::SignIn)), "{text:?} claims");
        let all = people::tokens(&house.control, &Actor::HostRoot { pid: 1 }).expect("a list");
        assert_eq!(all.len(), TOKENS, "{text:?} made a token");
    });
}

/// What fits into an address three times over; a longer one is refused before anybody reads it.
const IN_ADDRESS: usize = 2 << 10;

/// A list goes on where it said, and nowhere else.
pub(crate) fn page_token(data: &[u8]) {
    if data.len() > IN_ADDRESS {
        return;
    }
    ask(data, |house, data| {
        let text = String::from_utf8_lossy(data).replace("{live}", &house.next);
        // As bytes: what is no text comes as it is.
        let bytes = match std::str::from_utf8(data) {
            Ok(_) => text.as_bytes(),
            Err(_) => data,
        };
        let written: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
        let address = format!("{LIST}&page_token={written}");
        let answer = house.client.raw("GET", &address, None).expect("an answer");
        let body = String::from_utf8_lossy(&answer.body);
        if bytes == house.next.as_bytes() {
            assert_eq!(answer.status, 200, "{body}");
        } else {
            assert!(
                (400..500).contains(&answer.status),
                "{text:?}: {} {body}",
                answer.status
            );
            assert!(body.contains("\"code\""), "{text:?}: {body}");
        }
    });
}
