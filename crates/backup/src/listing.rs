//! What an S3 server answers in XML: lists, and why it refused.

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::Object;

/// One page of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Object>,
    /// Common prefixes.
    pub(crate) folders: Vec<String>,
    /// Where to go on.
    pub(crate) next: Option<String>,
}

/// Reads an answer to `ListObjectsV2`; nothing when it is none.
pub(crate) fn page(text: &str) -> Option<Page> {
    let mut page = Page::default();
    let mut is_list = false;
    let mut is_cut = false;
    let mut object = Object {
        name: String::new(),
        bytes: 0,
    };
    walk(text, |path, value| match path {
        ["ListBucketResult"] => {
            is_list = true;
            Some(())
        }
        ["ListBucketResult", "IsTruncated"] => {
            is_cut = value == "true";
            Some(())
        }
        ["ListBucketResult", "NextContinuationToken"] => {
            page.next = Some(value.to_owned());
            Some(())
        }
        ["ListBucketResult", "CommonPrefixes", "Prefix"] => {
            page.folders.push(value.to_owned());
            Some(())
        }
        ["ListBucketResult", "Contents", "Key"] => {
            value.clone_into(&mut object.name);
            Some(())
        }
        ["ListBucketResult", "Contents", "Size"] => {
            object.bytes = value.parse().ok()?;
            Some(())
        }
        ["ListBucketResult", "Contents"] => {
            page.objects.push(object.clone());
            Some(())
        }
        _ => Some(()),
    })?;
    // One that says that there is more and not where must not be taken for all there is.
    let is_whole = is_list && is_cut == page.next.is_some();
    is_whole.then_some(page)
}

/// The code and message of a refusal, as far as it has them.
pub(crate) fn refusal(text: &str) -> Option<String> {
    let (mut code, mut message) = (None, None);
    walk(text, |path, value| {
        match path {
            ["Error", "Code"] => code = Some(value.to_owned()),
            ["Error", "Message"] => message = Some(value.to_owned()),
            _ => {}
        }
        Some(())
    });
    match (code, message) {
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (one, other) => one.or(other),
    }
}

/// Tells each element at its end: where it is and the text directly in it. Nothing when it is no XML, or `tell` gives up.
fn walk(text: &str, mut tell: impl FnMut(&[&str], &str) -> Option<()>) -> Option<()> {
    const DEEPEST: usize = 16;
    let mut reader = Reader::from_str(text);
    let mut path: Vec<String> = Vec::new();
    let mut value = String::new();
    loop {
        match reader.read_event().ok()? {
            Event::Start(element) => {
                path.push(element.local_name().as_ref().to_owned());
                value.clear();
                if path.len() > DEEPEST {
                    return None;
                }
            }
            Event::Empty(element) => {
                let name = element.local_name().as_ref().to_owned();
                let at: Vec<&str> = path.iter().map(String::as_str).chain([name.as_str()]).collect();
                tell(&at, "")?;
            }
            Event::Text(text) => value.push_str(&text),
            Event::GeneralRef(reference) => match reference.resolve_char_ref().ok()? {
                Some(letter) => value.push(letter),
                None => {
                    value.push_str(quick_xml::escape::resolve_predefined_entity(&reference)?);
                }
            },
            Event::End(_) => {
                let at: Vec<&str> = path.iter().map(String::as_str).collect();
                tell(&at, value.trim())?;
                path.pop();
                value.clear();
            }
            Event::Eof => return path.is_empty().then_some(()),
            Event::CData(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_whole_or_not_at_all() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>a/</Prefix>
            <IsTruncated>true</IsTruncated><NextContinuationToken>x&amp;y&#61;</NextContinuationToken>
            <Contents><Key>a/one</Key><Size>5</Size><Owner><ID>1</ID></Owner></Contents>
            <Contents><Key>a/two</Key><Size>6</Size></Contents>
            <CommonPrefixes><Prefix>a/b/</Prefix></CommonPrefixes></ListBucketResult>"#;
        let found = page(text).expect("a page");
        let names: Vec<_> = found
            .objects
            .iter()
            .map(|one| (one.name.as_str(), one.bytes))
            .collect();
        assert_eq!(names, [("a/one", 5), ("a/two", 6)]);
        assert_eq!(
            (found.folders.as_slice(), found.next.as_deref()),
            (&["a/b/".to_owned()][..], Some("x&y="))
        );
        for wrong in [
            "",
            "<html></html>",
            &text[..text.len() - 20],
            "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            "<ListBucketResult><Contents><Key>a</Key><Size>many</Size></Contents></ListBucketResult>",
        ] {
            assert_eq!(page(wrong), None, "{wrong}");
        }
        let none = page("<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>");
        assert_eq!(none, Some(Page::default()));
    }

    #[test]
    fn a_refusal_says_why() {
        let text = "<Error><Code>NoSuchBucket</Code><Message>it is not there</Message></Error>";
        assert_eq!(refusal(text).as_deref(), Some("NoSuchBucket: it is not there"));
        assert_eq!(refusal("gateway timeout"), None);
    }
}
