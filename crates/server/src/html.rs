//! Pages for people: their frame, and what they say when something was refused.
//!
//! Lives here: what all pages have in common. Does not live here: what one page is for (`device_page`, `oidc`).
//! Invariant: without scripts; every text that is not ours is escaped.

use std::fmt::Write as _;

use api::reference::escape;

use crate::answer::Reply;
use crate::refusal::Refusal;

/// A whole page. The title is ours; `main` is HTML.
pub(crate) fn page(status: u16, title: &str, main: &str) -> Reply {
    Reply::Forms {
        status,
        body: frame(title, main),
        cookies: Vec::new(),
    }
}

/// A whole page, for a browser that is to keep these cookies.
pub(crate) fn page_with(cookies: Vec<String>, title: &str, main: &str) -> Reply {
    Reply::Forms {
        status: 200,
        body: frame(title, main),
        cookies,
    }
}

/// The page that says what was refused, and why; `onward` is HTML: what there is to do.
pub(crate) fn refusal(refusal: &Refusal, title: &str, onward: &str) -> Reply {
    let why = escape(&said(refusal));
    let text = format!("<h1>That did not work</h1>\n<p role=\"alert\"><strong>{why}</strong></p>\n{onward}");
    page(refusal.status(), title, &text)
}

/// A refusal in sentences.
pub(crate) fn said(refusal: &Refusal) -> String {
    let problem = refusal.problem("");
    let fields = problem
        .errors
        .iter()
        .map(|error| format!("{} {}", error.pointer, error.message));
    let all = std::iter::once(problem.detail)
        .chain(fields)
        .chain([format!("Next: {}", problem.next_step)]);
    all.collect::<Vec<_>>().join(". ")
}

fn frame(title: &str, main: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <link rel=\"stylesheet\" href=\"{}\">\n</head>\n<body>\n<main>\n{main}</main>\n</body>\n</html>\n",
        api::endpoints::REFERENCE_STYLE.path
    )
}

/// Writing to a text cannot fail.
pub(crate) fn put(text: &mut String, part: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(part);
}
