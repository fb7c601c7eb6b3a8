//! A whole server with a real store and the simulated engine, one at a time: a planted defect is the whole process's.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{CreateToken, Role};
use client::{Address, Client};
use control::routes::{EdgeLink, RouteTable};
use control::{Control, Parts, Settings};
use model::InstanceId;
use serde_json::Value;

/// Path of the environment every installation begins with.
pub const HOME: &str = "/v1/orgs/default/projects/default/environments/production";

static ONE: Mutex<()> = Mutex::new(());

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

/// The server.
pub struct World {
    pub control: Arc<Control>,
    pub owner: String,
    pub dir: tempfile::TempDir,
    address: SocketAddr,
    // The door closes before the next world may begin.
    _running: server::Running,
    _turn: MutexGuard<'static, ()>,
}

/// Status and body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

impl World {
    pub fn new() -> Self {
        let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        server::planted::plant(None);
        control::planted::plant(None);
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("run")).expect("run");
        let store_path = dir.path().join("store.db");
        let master =
            store::MasterKey::load_or_create(&dir.path().join("master.key"), &store_path).expect("a key");
        let now = store::Now::at(model::Timestamp::now().as_ms());
        let control = Arc::new(Control::new(Parts::new(
            Arc::new(store::Store::open(&store_path, &master, now).expect("a store")),
            Arc::new(engine::simulated::Simulated::new()),
            Arc::new(NoEdge),
            Settings::new(dir.path().to_owned()),
        )));
        control::places::found(&control).expect("founded");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp.local_addr().expect("an address");
        let local = UnixListener::bind(dir.path().join(api::LOCAL_SOCKET)).expect("a socket");
        let about = server::About {
            version: "test".to_owned(),
            listeners: std::collections::BTreeMap::new(),
            requests_per_minute: 0,
        };
        let running = server::start(tcp, local, Arc::clone(&control), about).expect("started");
        let mut world = Self {
            control,
            owner: String::new(),
            dir,
            address,
            _running: running,
            _turn: turn,
        };
        world.owner = world.token(Role::Owner, None);
        let made = world.post(&format!("{HOME}/apps"), "{\"name\":\"shop\"}");
        assert_eq!(made.status, 201, "{made:?}");
        world
    }

    /// A fresh token.
    pub fn token(&self, role: Role, org: Option<&str>) -> String {
        let path = self.dir.path().join(api::LOCAL_SOCKET);
        let root = Client::new(Address::Unix(path), None, None).expect("a client");
        let body = CreateToken {
            name: format!("{role:?}"),
            role,
            org: org.map(str::to_owned),
            scopes: None,
            lifetime_s: None,
        };
        root.token_create(&body).expect("a token").token
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.call("POST", path, "", body)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", "")
    }

    /// As the owner.
    pub fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.call_as(&self.owner, method, path, headers, body)
    }

    pub fn call_as(&self, token: &str, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}");
        if !token.is_empty() {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if !body.is_empty() {
            head.push_str("Content-Type: application/json\r\n");
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        let mut stream = TcpStream::connect(self.address).expect("connected");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a bound");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .expect("a status");
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Answer {
            status,
            body: serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())),
        }
    }

    /// With a guard of the door taken away.
    pub fn without<T>(defect: server::planted::Defect, work: impl FnOnce() -> T) -> T {
        server::planted::plant(Some(defect));
        let done = work();
        server::planted::plant(None);
        done
    }
}
