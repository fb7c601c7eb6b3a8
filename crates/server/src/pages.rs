//! Cutting a list into pages.
//!
//! Invariant: a page token names the last item shown, so that what is added or removed meanwhile shifts nothing.

use api::page::PAGE_DEFAULT;

use crate::call::Call;
use crate::refusal::Refusal;

/// The asked-for part of a list, and the token of the next part. `id` names an item within the list.
pub(crate) fn cut<T>(
    call: &Call,
    all: Vec<T>,
    id: impl Fn(&T) -> String,
) -> Result<(Vec<T>, String), Refusal> {
    let limit = usize::try_from(call.number("limit").unwrap_or(PAGE_DEFAULT as u64)).unwrap_or(PAGE_DEFAULT);
    let start = match call.query("page_token") {
        None => 0,
        Some(token) => after(token, &all, &id)?,
    };
    let total = all.len();
    let items: Vec<T> = all.into_iter().skip(start).take(limit).collect();
    let end = start + items.len();
    let next = match items.last() {
        Some(last) if end < total => format!("{end}.{}", id(last)),
        Some(_) | None => String::new(),
    };
    Ok((items, next))
}

/// A page of a list that the store walks itself, because it grows for ever.
pub(crate) struct Walk {
    /// The item before the page; empty at the begin of the list.
    pub(crate) from: String,
    /// Most items of the page.
    pub(crate) limit: usize,
    position: usize,
}

impl Walk {
    /// As asked for.
    pub(crate) fn of(call: &Call) -> Result<Self, Refusal> {
        let limit =
            usize::try_from(call.number("limit").unwrap_or(PAGE_DEFAULT as u64)).unwrap_or(PAGE_DEFAULT);
        let (position, from) = match call.query("page_token") {
            None => (0, String::new()),
            Some(token) => named(token)?,
        };
        Ok(Self {
            from,
            limit,
            position,
        })
    }

    /// The token of the page after this one, which showed so many and ends with `last` if there are more.
    pub(crate) fn next(&self, shown: usize, last: Option<String>) -> String {
        last.map_or_else(String::new, |last| format!("{}.{last}", self.position + shown))
    }
}

/// The position and the item that a token names.
fn named(token: &str) -> Result<(usize, String), Refusal> {
    let wrong = || Refusal::field("?page_token", "is not the next_page of a page of this list");
    let (position, last) = token.split_once('.').ok_or_else(wrong)?;
    Ok((position.parse().map_err(|_| wrong())?, last.to_owned()))
}

/// Where the item named by a token ends; where it would have been when it is gone.
fn after<T>(token: &str, all: &[T], id: &impl Fn(&T) -> String) -> Result<usize, Refusal> {
    let (position, last) = named(token)?;
    match all.iter().position(|item| id(item) == last) {
        Some(found) => Ok(found + 1),
        None if position > 0 => Ok((position - 1).min(all.len())),
        None => Err(Refusal::field(
            "?page_token",
            "is not the next_page of a page of this list",
        )),
    }
}
