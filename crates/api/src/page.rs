//! Lists: `{items, next_page}`, one schema per noun (a generic page would inline its items in the document).
//!
//! Invariant: an empty `next_page` is the only sign of the end; a short page is not.

/// How many items a page has when nobody says.
pub const PAGE_DEFAULT: usize = 100;
/// The largest page: keeps one answer below a few megabytes. A larger `limit` is refused, never cut silently.
pub const PAGE_MAX: usize = 500;

/// Any page of a list.
pub trait Page {
    /// What it lists.
    type Item;
    /// The items and the token of the next page (empty at the end).
    fn into_parts(self) -> (Vec<Self::Item>, String);
}

macro_rules! pages {
    ($($page:ident of $item:ty, $doc:literal;)*) => {$(
        #[doc = concat!("A page of ", $doc, ".")]
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        pub struct $page {
            /// The items of this page.
            pub items: Vec<$item>,
            /// Give it back as `page_token` to get the next page; empty at the end.
            pub next_page: String,
        }
        impl $crate::page::Page for $page {
            type Item = $item;
            fn into_parts(self) -> (Vec<$item>, String) {
                (self.items, self.next_page)
            }
        }
        impl From<(Vec<$item>, String)> for $page {
            fn from((items, next_page): (Vec<$item>, String)) -> Self {
                Self { items, next_page }
            }
        }
    )*};
}
pub(crate) use pages;
