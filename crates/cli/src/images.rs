//! `stoa image`.

use std::fs::File;
use std::path::Path;

use api::{CreateImage, ImageSource};

use crate::archive;
use crate::args::{BaseCommand, ImageCommand, Patience};
use crate::failure::{Code, Failure};
use crate::follow;
use crate::output::{self, say};
use crate::session::Session;

pub(crate) fn images(session: &Session, command: &ImageCommand) -> Result<u8, Failure> {
    match command {
        ImageCommand::Ls => {
            let all = session.client.images()?;
            if session.json {
                output::json(&all)?;
            } else if all.is_empty() {
                say("no images yet; make one: stoa image base create debian:12");
            } else {
                let rows: Vec<Vec<String>> = all
                    .iter()
                    .map(|image| {
                        let names = output::or_dash(Some(&image.names.join(", ")));
                        let digest: String = image.digest.chars().take(19).collect();
                        vec![
                            names,
                            digest,
                            output::size(image.bytes),
                            output::ago(image.created_at),
                        ]
                    })
                    .collect();
                output::data(&output::table(&["IMAGE", "DIGEST", "SIZE", "STORED"], &rows))?;
            }
            Ok(0)
        }
        ImageCommand::Import { file, name, patience } => {
            let name = match name {
                Some(name) => name.clone(),
                None => name_of(file)?,
            };
            let opened = File::open(file)
                .map_err(|cause| Failure::local(format!("could not read {}", file.display()), &cause))?;
            let upload = session.client.upload(&session.place, media_type(file), opened)?;
            fetch(
                session,
                name,
                ImageSource::Archive { upload: upload.id },
                patience,
            )
        }
        ImageCommand::Add {
            name,
            directory,
            over,
            at,
            patience,
        } => {
            let packed = archive::pack_whole(directory)?;
            let upload = session
                .client
                .upload(&session.place, archive::MEDIA_TYPE, packed.file)?;
            let source = ImageSource::Directory {
                upload: upload.id,
                over: over.clone(),
                at: at.clone(),
            };
            fetch(session, name.clone(), source, patience)
        }
        ImageCommand::Pull {
            reference,
            name,
            insecure,
            patience,
        } => {
            let name = name.clone().unwrap_or_else(|| reference.clone());
            fetch(
                session,
                name,
                ImageSource::Pull {
                    reference: reference.clone(),
                    insecure: *insecure,
                },
                patience,
            )
        }
        ImageCommand::Base {
            command:
                BaseCommand::Create {
                    name,
                    packages,
                    suite,
                    host,
                    patience,
                },
        } => {
            let source = if *host {
                ImageSource::Host {}
            } else {
                let suite = suite
                    .clone()
                    .or_else(|| suite_of(name).map(str::to_owned))
                    .ok_or_else(|| {
                        Failure::new(
                            Code::Usage,
                            format!("which Debian suite? {name:?} does not say"),
                            format!("name it: stoa image base create {name} --suite bookworm"),
                        )
                    })?;
                ImageSource::Debian {
                    suite,
                    packages: packages.clone(),
                }
            };
            fetch(session, name.clone(), source, patience)
        }
        ImageCommand::Inspect { image } => {
            output::json(&session.client.image(image)?)?;
            Ok(0)
        }
        ImageCommand::Rm { image } => {
            session.client.image_delete(image)?;
            say(&format!("removed {image}"));
            if session.json {
                output::json(&serde_json::json!({"image": image, "removed": true}))?;
            }
            Ok(0)
        }
    }
}

fn fetch(session: &Session, name: String, source: ImageSource, patience: &Patience) -> Result<u8, Failure> {
    let operation = session.client.image_create(&CreateImage {
        name,
        source,
        org: None,
    })?;
    let operation = follow::follow(session, &operation, patience)?;
    follow::finish(session, &operation)
}

/// The suite a name like `debian:12` means.
fn suite_of(name: &str) -> Option<&'static str> {
    let tag = name.strip_prefix("debian:")?;
    let tag = tag.split('-').next().unwrap_or(tag);
    [("11", "bullseye"), ("12", "bookworm"), ("13", "trixie")]
        .into_iter()
        .find(|(number, suite)| tag == *number || tag == *suite)
        .map(|(_, suite)| suite)
}

fn name_of(file: &Path) -> Result<String, Failure> {
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let name = [".tar.gz", ".tar.zst", ".tgz", ".tar"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    if name.is_empty() {
        return Err(Failure::new(
            Code::Usage,
            "which name shall it get?",
            "name it: --name NAME",
        ));
    }
    Ok(name.to_owned())
}

/// By its name alone: the server looks at the bytes anyway.
fn media_type(file: &Path) -> &'static str {
    match file.extension().and_then(|end| end.to_str()) {
        Some("gz" | "tgz") => "application/gzip",
        Some("zst") => "application/zstd",
        _ => "application/x-tar",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_suites_are_guessed() {
        for (name, suite) in [
            ("debian:12", Some("bookworm")),
            ("debian:trixie", Some("trixie")),
            ("debian:12-python", Some("bookworm")),
            ("base", None),
        ] {
            assert_eq!(suite_of(name), suite, "{name}");
        }
        for (file, name) in [("/x/shop.tar.gz", "shop"), ("shop.tar", "shop"), ("shop", "shop")] {
            assert_eq!(name_of(Path::new(file)).expect(file), name);
        }
        assert!(name_of(Path::new("/")).is_err());
    }
}
