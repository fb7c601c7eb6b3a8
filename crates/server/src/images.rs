//! Images: those the caller may know of.

use api::{CreateImage, ImageDetail, ImagePage, ImageSource};
use control::images;
use model::operation;

use crate::answer::Reply;
use crate::call::Call;
use crate::pages;
use crate::refusal::Refusal;

pub(crate) fn list(call: &Call) -> Result<Reply, Refusal> {
    let mut all = images::list(call.control(), call.actor()?)?;
    if let Some(wanted) = call.query("name") {
        all.retain(|image| image.names.iter().any(|name| name == wanted));
    }
    let (page, next_page) = pages::cut(call, all, |image| image.digest.to_string())?;
    let items = page.into_iter().map(|image| api::Image {
        digest: image.digest.to_string(),
        names: image.names,
        bytes: image.bytes,
        created_at: image.created_at,
    });
    Reply::ok(&ImagePage {
        items: items.collect(),
        next_page,
    })
}

pub(crate) fn create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateImage = call.needed_body()?;
    let source = match body.source {
        ImageSource::Pull { reference, insecure } => operation::ImageSource::Pull { reference, insecure },
        ImageSource::Archive { upload } => operation::ImageSource::Archive {
            upload: upload_of(&upload)?,
        },
        ImageSource::Directory { upload, over, at } => operation::ImageSource::Directory {
            upload: upload_of(&upload)?,
            over,
            at,
        },
        ImageSource::Debian { suite, packages } => operation::ImageSource::Debian { suite, packages },
        ImageSource::Host {} => operation::ImageSource::Host,
    };
    let accepted = images::fetch(
        call.control(),
        call.actor()?,
        &source,
        &body.name,
        body.org.as_deref(),
    )?;
    Reply::accepted(&accepted.operation)
}

fn upload_of(text: &str) -> Result<model::UploadId, Refusal> {
    text.parse()
        .map_err(|why: model::id::IdError| Refusal::field("/source/upload", why.to_string()))
}

pub(crate) fn view(call: &Call) -> Result<Reply, Refusal> {
    let facts = images::view(call.control(), call.actor()?, call.parameter("image")?)?;
    let digest = facts.digest.to_string();
    let detail = ImageDetail {
        digest: facts.digest.to_string(),
        command: facts.command,
        env: facts.env,
        user: facts.user,
        workdir: facts.workdir,
        ports: facts.ports,
        labels: facts.labels,
    };
    Reply::tagged_as(200, &detail, digest)
}

pub(crate) fn delete(call: &Call) -> Result<Reply, Refusal> {
    let image = call.parameter("image")?;
    images::remove_if(call.control(), call.actor()?, image, call.digest.as_deref())?;
    Ok(Reply::Empty)
}
