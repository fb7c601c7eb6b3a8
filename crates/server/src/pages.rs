//! Cutting a list into pages.
//!
//! Invariants: a page token names the last item shown, so that what is added or removed meanwhile shifts nothing; it is
//! sealed for this list and this filter, so that none is taken that we did not give for them.

use api::page::PAGE_DEFAULT;

use crate::call::Call;
use crate::refusal::Refusal;

/// The asked-for part of a list, and the token of the next part. `id` names an item within the list.
pub(crate) fn cut<T>(
    call: &Call,
    all: Vec<T>,
    id: impl Fn(&T) -> String,
) -> Result<(Vec<T>, String), Refusal> {
    let walk = Walk::of(call)?;
    let start = match walk.position {
        0 => 0,
        position => match all.iter().position(|item| id(item) == walk.from) {
            Some(found) => found + 1,
            // It is gone: where it would have been.
            None => (position - 1).min(all.len()),
        },
    };
    let total = all.len();
    let items: Vec<T> = all.into_iter().skip(start).take(walk.limit).collect();
    let end = start + items.len();
    let last = items.last().filter(|_| end < total).map(id);
    let next = last.map_or_else(String::new, |last| walk.list.token(end, &last));
    Ok((items, next))
}

/// A page of a list that the store walks itself, because it grows for ever.
pub(crate) struct Walk<'c> {
    /// The item before the page; empty at the begin of the list.
    pub(crate) from: String,
    /// Most items of the page.
    pub(crate) limit: usize,
    position: usize,
    list: List<'c>,
}

impl<'c> Walk<'c> {
    /// As asked for.
    pub(crate) fn of(call: &'c Call) -> Result<Self, Refusal> {
        let limit =
            usize::try_from(call.number("limit").unwrap_or(PAGE_DEFAULT as u64)).unwrap_or(PAGE_DEFAULT);
        let list = List(call);
        let (position, from) = match call.query("page_token") {
            None => (0, String::new()),
            Some(token) => list.read(token).ok_or_else(|| {
                Refusal::field("?page_token", "is not the next_page of a page of this list")
            })?,
        };
        Ok(Self {
            from,
            limit,
            position,
            list,
        })
    }

    /// The token of the page after this one, which showed so many and ends with `last` if there are more.
    pub(crate) fn next(&self, shown: usize, last: Option<String>) -> String {
        last.map_or_else(String::new, |last| self.list.token(self.position + shown, &last))
    }
}

/// What a token is sealed for: an endpoint, what its path names, and its filters.
struct List<'c>(&'c Call);

impl List<'_> {
    fn texts<'t>(&'t self, position: &'t str, last: &'t str) -> Vec<&'t str> {
        let mut filters: Vec<(&str, &str)> = self
            .0
            .query
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !matches!(*name, "limit" | "page_token"))
            .collect();
        filters.sort_unstable();
        let mut texts = vec![self.0.endpoint.id, position, last];
        texts.extend(self.0.parameters.iter().map(|(_, value)| value.as_str()));
        texts.extend(filters.iter().flat_map(|(name, value)| [*name, *value]));
        texts
    }

    fn token(&self, position: usize, last: &str) -> String {
        let position = position.to_string();
        let mark = self.0.control().mark(PURPOSE, &self.texts(&position, last));
        let mark: String = mark.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{position}.{last}~{mark}")
    }

    fn read(&self, token: &str) -> Option<(usize, String)> {
        let (position, last, mark) = parts(token)?;
        let is_ours = self
            .0
            .control()
            .is_mark(PURPOSE, &self.texts(position, last), &mark);
        is_ours.then(|| Some((position.parse().ok()?, last.to_owned())))?
    }
}

const PURPOSE: &str = "page token 1";

/// Position, item and seal of a token.
fn parts(token: &str) -> Option<(&str, &str, Vec<u8>)> {
    let (position, rest) = token.split_once('.')?;
    let (last, mark) = rest.rsplit_once('~')?;
    let is_hex = mark.len() == 32 && mark.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let digits = |at: usize| u8::from_str_radix(mark.get(at..at + 2)?, 16).ok();
    let mark = (0..32).step_by(2).map(digits).collect::<Option<Vec<u8>>>();
    mark.filter(|_| is_hex).map(|mark| (position, last, mark))
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn a_token_has_one_form() {
        let mark = "0123456789abcdef0123456789abcdef";
        let whole = format!("12.a~b.c~{mark}");
        let (position, last, bytes) = parts(&whole).expect("a token");
        assert_eq!((position, last, bytes.len(), bytes[1]), ("12", "a~b.c", 16, 0x23));
        for bad in [
            String::new(),
            "1.v1".to_owned(),
            format!("1~{mark}"),
            format!("1.v1~{}", &mark[1..]),
            format!("1.v1~{}", mark.to_uppercase()),
            format!("1.v1~{}\u{e9}\u{e9}", &mark[4..]),
            format!("1.v1~{mark} "),
        ] {
            assert!(parts(&bad).is_none(), "{bad:?}");
        }
    }
}
