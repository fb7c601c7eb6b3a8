//! Whose an image is: who sees it, and where it may run.

use control::people::{self, Accepted, Source};
use control::{ControlError, EnvPath, images, places, releases};
use engine::Engine as _;
use engine::simulated::Behaviour;
use model::operation::{ImageSource, Source as From};
use model::{Actor, OperationState, Role};
use store::Secret;
use store::rows::{ImageName, Step};

use crate::world::{ROOT, World, name, succeeded};

/// A user of an org, or of one project in it.
fn member(world: &World, user: &str, org: &str, project: Option<&str>) -> Actor {
    let control = world.control();
    let email = format!("{user}@example.org").parse().expect("an address");
    let (_, text) = people::invite(control, &ROOT, Some(org), project, &email, Role::Owner).expect("made");
    let accepted = Accepted {
        text: text.expose_str().expect("text").to_owned(),
        name: Some(user.to_owned()),
        password: Secret::from("correct horse battery".to_owned()),
    };
    let found = people::accept(control, &accepted, &Source::host(), "").expect("taken");
    Actor::User {
        user: found.account.user.id,
        session: found.session.id,
    }
}

/// Another org with an app in it, and its owner.
fn neighbour(world: &World) -> (EnvPath, Actor) {
    let control = world.control();
    places::create_org(control, &ROOT, &name("other")).expect("an org");
    places::create_project(control, &ROOT, "other", &name("default")).expect("a project");
    places::create_environment(control, &ROOT, "other", "default", &name("production")).expect("a place");
    let path = EnvPath {
        org: "other".to_owned(),
        ..EnvPath::default()
    };
    control::apps::create(control, &ROOT, &path, &name("thief")).expect("an app");
    (path, member(world, "eve", "other", None))
}

fn names(world: &World, actor: &Actor) -> Vec<String> {
    let all = images::list(world.control(), actor).expect("a list");
    let mut names: Vec<String> = all.into_iter().flat_map(|image| image.names).collect();
    names.sort();
    names
}

/// How a deploy of an image ends: a failure's code and text.
fn deployed(world: &mut World, path: &EnvPath, app: &str, image: &str) -> Option<(String, String)> {
    let source = From::Image {
        image: image.to_owned(),
    };
    let accepted = releases::deploy(world.control(), &ROOT, path, app, &source, None).expect("accepted");
    match world.settle(accepted.operation.id).state {
        OperationState::Failed { failure, .. } => Some((failure.code, failure.message)),
        _other => None,
    }
}

#[test]
fn images_of_others_are_as_if_they_were_not_there() {
    let mut world = World::with_shop();
    let (path, eve) = neighbour(&world);
    let digest = world.registry("own:1", Behaviour::default()).to_string();
    succeeded(&world.deployed("shop", "own:1", None));
    places::create_project(world.control(), &ROOT, "default", &name("side")).expect("a project");
    let home = member(&world, "ada", "default", None);
    let side = member(&world, "only", "default", Some("side"));
    assert_eq!(names(&world, &home), ["good:1", "good:2", "own:1"]);
    assert!(images::view(world.control(), &home, &digest).is_ok());
    let absent = format!("sha256:{:064x}", 0xab5e);
    for stranger in [&eve, &side] {
        assert_eq!(
            names(&world, stranger),
            ["good:1", "good:2"],
            "what is everybody's"
        );
        let ask = |wanted: &str| {
            let refused = images::view(world.control(), stranger, wanted).expect_err("others'");
            assert!(matches!(refused, ControlError::NotFound { kind: "image", .. }));
            refused.to_string().replace(wanted, "IMAGE")
        };
        assert_eq!(ask(&digest), ask(&absent));
        assert_eq!(ask("own:1"), ask("nowhere:1"));
    }
    // Nor do they run, whoever knows the digest: it is told as what nobody has.
    let told = |ended: Option<(String, String)>, wanted: &str| {
        let (code, message) = ended.expect("it failed");
        (code, message.replace(wanted, "IMAGE"))
    };
    let foreign = told(deployed(&mut world, &path, "thief", &digest), &digest);
    assert_eq!(
        foreign,
        told(deployed(&mut world, &path, "thief", &absent), &absent)
    );
    let source = From::Image {
        image: digest.clone(),
    };
    let plan = releases::preview(world.control(), &eve, &path, "thief", Some(&source), None).expect("a plan");
    assert!(
        plan.unknown.iter().any(|line| line.contains("not here yet")),
        "{plan:?}"
    );
    // By its reference anybody gets it, from where that leads to; from then on he has it.
    assert_eq!(deployed(&mut world, &path, "thief", "own:1"), None);
    assert_eq!(names(&world, &eve), ["good:1", "good:2", "own:1"]);
    assert_eq!(
        deployed(&mut world, &EnvPath::default(), "shop", &digest),
        None,
        "one's own by digest"
    );
}

#[test]
fn the_operator_gets_images_for_all_or_for_one_org() {
    let mut world = World::with_shop();
    let (path, eve) = neighbour(&world);
    let home = member(&world, "ada", "default", None);
    for image in ["all:1", "theirs:1"] {
        world.registry(image, Behaviour::default());
    }
    for (image, org) in [("all:1", None), ("theirs:1", Some("other"))] {
        let accepted =
            images::fetch(world.control(), &ROOT, &ImageSource::Host, image, org).expect("accepted");
        let done = world.settle(accepted.operation.id);
        succeeded(&done);
    }
    assert_eq!(names(&world, &home), ["all:1", "good:1", "good:2"]);
    assert_eq!(names(&world, &eve), ["all:1", "good:1", "good:2", "theirs:1"]);
    assert_eq!(deployed(&mut world, &path, "thief", "theirs:1"), None);
    assert!(
        names(&world, &ROOT).len() > 3,
        "who reads the installation sees all"
    );
    images::remove(world.control(), &ROOT, "theirs:1").expect("forgotten");
    assert!(!world.all::<ImageName>().iter().any(|row| row.name == "theirs:1"));
    let nowhere = images::fetch(world.control(), &ROOT, &ImageSource::Host, "x", Some("nowhere"));
    assert!(matches!(nowhere, Err(ControlError::NotFound { kind: "org", .. })));
}

/// What an earlier Stoa got by a deploy is of the projects that deployed it; the rest stays everybody's. It is done once.
#[test]
fn images_from_before_get_their_owners() {
    let world = World::with_shop();
    let (_, eve) = neighbour(&world);
    world.registry("base:1", Behaviour::default());
    // As it was: nothing is written down.
    let now = store::Now::at(world.now.as_ms());
    let before: Result<_, store::StoreError> = world.parts().store.write(now, |tx| {
        for row in tx.list_all::<ImageName>()? {
            tx.delete::<ImageName>(&store::Row::id(&row.row), store::Expect::Any)?;
        }
        Ok(())
    });
    before.expect("as before");
    images::adopt(world.control()).expect("adopted");
    // Nobody deployed these two: they are as they were.
    assert_eq!(names(&world, &eve), ["base:1", "good:2"]);
    let rows = world.all::<ImageName>().len();
    assert_eq!(rows, world.engine.images().expect("images").len());
    world.registry("later:1", Behaviour::default());
    images::adopt(world.control()).expect("nothing to do");
    assert_eq!(
        (world.all::<ImageName>().len(), world.all::<Step>().len()),
        (rows, 1)
    );
}
