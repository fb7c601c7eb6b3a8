//! Who a program runs as: names of the image, looked up in its layers.

use std::fs;
use std::path::PathBuf;

use engine::EngineError;
use runtime::User;

/// The user that `spelled` (`name`, `uid`, `name:group`, `uid:gid`; empty is root) means in these layers.
pub(crate) fn resolve(layers: &[PathBuf], spelled: &str) -> Result<(User, Option<String>), EngineError> {
    let (user, group) = match spelled.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spelled, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let passwd = top(layers, "etc/passwd");
    let rows = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|row| row.len() >= 6);
    let row = rows.into_iter().find(|row| row[0] == user || row[2] == user);
    let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id < runtime::ID_RANGE);
    let uid = row.as_ref().map_or(user, |row| row[2]);
    let uid = number(uid).ok_or_else(|| unknown("user", user))?;
    let groups = top(layers, "etc/group");
    let gid = match group {
        Some(group) => {
            let row = groups
                .lines()
                .map(|line| line.split(':').collect::<Vec<_>>())
                .find(|row| row[0] == group);
            let text = row.and_then(|row| row.get(2).copied()).unwrap_or(group);
            number(text).ok_or_else(|| unknown("group", group))?
        }
        None => row.as_ref().and_then(|row| number(row[3])).unwrap_or(0),
    };
    let name = row.as_ref().map_or("", |row| row[0]);
    let supplementary = groups.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_member = !name.is_empty() && fields.get(3)?.split(',').any(|member| member == name);
        is_member.then(|| number(fields[2])).flatten()
    });
    let home = row.map(|row| row[5].to_owned());
    Ok((
        User {
            uid,
            gid,
            groups: supplementary.collect(),
        },
        home,
    ))
}

fn unknown(what: &str, name: &str) -> EngineError {
    EngineError::Image {
        image: "its configuration".to_owned(),
        why: format!("there is no {what} {name:?} in it"),
        next_step: "name a user of the image, or a number".to_owned(),
    }
}

/// A file as the highest layer that has it shows it. A link is not followed: it could lead out of the layer.
fn top(layers: &[PathBuf], path: &str) -> String {
    for layer in layers.iter().rev() {
        let file = layer.join(path);
        if fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_file()) {
            return fs::read_to_string(&file).unwrap_or_default();
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_looked_up() {
        let dir = std::env::temp_dir().join(format!("stoa-users-{}", std::process::id()));
        fs::create_dir_all(dir.join("etc")).expect("a directory");
        fs::write(
            dir.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
        )
        .expect("written");
        fs::write(dir.join("etc/group"), "root:x:0:\nwww:x:34:\nlog:x:40:web,root\n").expect("written");
        let layers = [dir.clone()];
        for (spelled, uid, gid) in [
            ("", 0, 0),
            ("web", 33, 34),
            ("33", 33, 34),
            ("1000", 1000, 0),
            ("web:log", 33, 40),
            ("7:8", 7, 8),
        ] {
            let (user, _) = resolve(&layers, spelled).expect(spelled);
            assert_eq!((user.uid, user.gid), (uid, gid), "{spelled}");
        }
        assert_eq!(resolve(&layers, "web").expect("known").0.groups, [40]);
        for bad in ["nobody-here", "99999999", "-1", "web:none"] {
            assert!(resolve(&layers, bad).is_err(), "{bad}");
        }
        fs::remove_dir_all(dir).expect("removed");
    }
}
