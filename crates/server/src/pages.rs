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

/// The position and the item that a token names. Its form is that of the document, for every list.
fn named(token: &str) -> Result<(usize, String), Refusal> {
    let read = || {
        let (position, last) = token.split_once('.')?;
        let is_number = !position.starts_with('0') && position.bytes().all(|byte| byte.is_ascii_digit());
        let is_item = (1..=200).contains(&last.len()) && last.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let position = position
            .parse()
            .ok()
            .filter(|_| is_number && position.len() <= 15)?;
        is_item.then(|| (position, last.to_owned()))
    };
    read().ok_or_else(|| Refusal::field("?page_token", "is not the next_page of a page of this list"))
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

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn a_token_has_one_form() {
        for (token, fits) in [
            ("1.v1", true),
            ("999999999999999.sha256:ab cd", true),
            ("0.v1", false),
            ("01.v1", false),
            ("+1.v1", false),
            ("1000000000000000.v1", false),
            ("1.", false),
            (".v1", false),
            ("1", false),
            ("", false),
            ("1.\u{e9}", false),
            ("1.a\n", false),
        ] {
            assert_eq!(named(token).is_ok(), fits, "{token:?}");
        }
        assert!(named(&format!("1.{}", "a".repeat(201))).is_err());
    }
}
