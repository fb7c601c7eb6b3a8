//! Requests over a real socket against a small site.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::sync::OnceLock;

use super::{Site, serve};

/// One server for all tests: it never ends, as in real life.
fn server() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| {
        let place = tempfile::tempdir().expect("a directory").keep();
        let root = place.join("site");
        for (name, content) in [
            ("index.html", "<h1>Home</h1>"),
            ("about.html", "About"),
            ("style.css", "body {}"),
            ("style.css.gz", "squeezed"),
            ("404.html", "Not here"),
            ("docs/index.html", "Docs"),
            ("a b/index.html", "Spaces"),
            ("empty/x.txt", "x"),
            ("digits.bin", "0123456789"),
            (".env", "SECRET=1"),
            (".well-known/x", "known"),
        ] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, content).expect("a file");
        }
        fs::write(place.join("outside.txt"), "outside").expect("a file");
        symlink("../outside.txt", root.join("out.txt")).expect("a link");
        symlink("about.html", root.join("in.html")).expect("a link");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let site = Site::open(&root).expect("a site");
            serve(&listener, &site)
        });
        address
    })
}

fn talk(raw: &str) -> String {
    let mut stream = TcpStream::connect(server()).expect("connected");
    stream.write_all(raw.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answered");
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(target: &str, headers: &str) -> String {
    talk(&format!(
        "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
    ))
}

/// Status, and the body or where it leads.
fn outcome(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    let location = head.lines().find_map(|line| line.strip_prefix("Location: "));
    format!("{status} {}", location.unwrap_or(body.trim_end()))
}

#[test]
fn paths_lead_to_files() {
    for (target, expected) in [
        ("/", "200 <h1>Home</h1>"),
        ("/?q=1", "200 <h1>Home</h1>"),
        ("/about", "200 About"),
        ("/about.html", "200 About"),
        ("/in.html", "200 About"),
        ("/docs", "301 /docs/"),
        ("/docs?x=1", "301 /docs/?x=1"),
        ("/docs/", "200 Docs"),
        ("/a%20b", "301 /a%20b/"),
        ("/a%20b/", "200 Spaces"),
        ("//docs", "301 /docs/"),
        ("/.well-known/x", "200 known"),
        ("/digits.bin", "200 0123456789"),
    ] {
        assert_eq!(outcome(&get(target, "")), expected, "{target}");
    }
}

#[test]
fn nothing_else_is_shown() {
    for target in [
        "/missing",
        "/empty/",
        "/.env",
        "/.well-known/../.env",
        "/out.txt",
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/..%2foutside.txt",
        "/style.css/",
        "/a\\b",
        "/%00",
        "/%zz",
        "/%2e%65nv",
    ] {
        let outcome = outcome(&get(target, ""));
        assert!(
            outcome == "404 Not here" || outcome == "400 400 Bad Request",
            "{target}: {outcome}"
        );
    }
}

#[test]
fn methods_and_odd_requests_are_refused() {
    for (raw, expected) in [
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            "405",
        ),
        ("GET / HTTP/3\r\n\r\n", "505"),
        ("GET /\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nbroken\r\n\r\n", "400"),
        ("GET / HTTP/1.0\r\n\r\n", "200"),
    ] {
        assert_eq!(talk(raw).split(' ').nth(1), Some(expected), "{raw}");
    }
    let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(17 << 10));
    assert_eq!(talk(&long).split(' ').nth(1), Some("431"));
}

#[test]
fn heads_say_what_follows() {
    let answer = get("/style.css", "");
    assert!(
        answer.contains("Content-Type: text/css; charset=utf-8\r\n")
            && answer.contains("Content-Length: 7\r\n")
    );
    let head = talk("HEAD /style.css HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(
        head.contains("Content-Length: 7\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let squeezed = get("/style.css", "Accept-Encoding: br, gzip;q=0.5\r\n");
    assert!(
        squeezed.contains("Content-Encoding: gzip\r\n") && squeezed.ends_with("squeezed"),
        "{squeezed}"
    );
    assert!(squeezed.contains("Content-Type: text/css"));
}

#[test]
fn what_is_known_is_not_sent_again() {
    let answer = get("/digits.bin", "");
    let tag = answer
        .lines()
        .find_map(|line| line.strip_prefix("ETag: "))
        .expect("a tag")
        .to_owned();
    for known in [
        tag.clone(),
        format!("W/{tag}"),
        format!("\"x\", {tag}"),
        "*".to_owned(),
    ] {
        let again = get("/digits.bin", &format!("If-None-Match: {known}\r\n"));
        assert_eq!(outcome(&again), "304 ", "{known}");
    }
    assert_eq!(
        outcome(&get("/digits.bin", "If-None-Match: \"x\"\r\n")),
        "200 0123456789"
    );
    let resumed = |tag: &str| {
        outcome(&get(
            "/digits.bin",
            &format!("Range: bytes=7-\r\nIf-Range: {tag}\r\n"),
        ))
    };
    assert_eq!(
        (resumed(&tag), resumed("\"x\"")),
        ("206 789".to_owned(), "200 0123456789".to_owned())
    );
}

#[test]
fn parts_are_sent() {
    for (range, expected) in [
        ("bytes=0-0", "206 0"),
        ("bytes=2-4", "206 234"),
        ("bytes=8-", "206 89"),
        ("bytes=8-99", "206 89"),
        ("bytes=-3", "206 789"),
        ("bytes=-99", "206 0123456789"),
        ("bytes=10-", "416 416 Range Not Satisfiable"),
        ("bytes=-0", "416 416 Range Not Satisfiable"),
        ("bytes=4-2", "200 0123456789"),
        ("bytes=0-1,3-4", "200 0123456789"),
        ("lines=1-2", "200 0123456789"),
        ("bytes=x-", "200 0123456789"),
    ] {
        assert_eq!(
            outcome(&get("/digits.bin", &format!("Range: {range}\r\n"))),
            expected,
            "{range}"
        );
    }
}

#[test]
fn a_connection_carries_several_requests_even_at_once() {
    let twice = "GET /about HTTP/1.1\r\nHost: x\r\n\r\nGET /digits.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = talk(twice);
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2);
    assert!(answer.contains("About") && answer.ends_with("0123456789"));
}
