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

/// Where the item named by a token ends; where it would have been when it is gone.
fn after<T>(token: &str, all: &[T], id: &impl Fn(&T) -> String) -> Result<usize, Refusal> {
    let wrong = || Refusal::field("?page_token", "is not the next_page of a page of this list");
    let (position, last) = token.split_once('.').ok_or_else(wrong)?;
    let position: usize = position.parse().map_err(|_| wrong())?;
    match all.iter().position(|item| id(item) == last) {
        Some(found) => Ok(found + 1),
        None if position > 0 => Ok((position - 1).min(all.len())),
        None => Err(wrong()),
    }
}
