//! Arguments of what is about people: signing in, members, users, tokens, the audit log.
//!
//! Lives here: their flags and help texts. Does not live here: the list of commands (`args`).

use std::path::PathBuf;

use clap::{Args, Subcommand};
use model::Millis;

/// Arguments of `stoa login`.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("how"))]
pub struct LoginArgs {
    /// Without any of the options: show a code, to be approved where you are signed in.
    #[command(subcommand)]
    pub command: Option<LoginCommand>,
    /// Trade the one-time token that `stoa up` printed for an access token.
    #[arg(long, group = "how", value_name = "TOKEN")]
    pub claim: Option<String>,
    /// Sign in with a password: asked for at a terminal, else read from standard input.
    #[arg(long, group = "how", value_name = "ADDRESS", value_parser = email)]
    pub email: Option<String>,
    /// Take an invitation, or choose a new password; the password is asked for or read as with --email.
    #[arg(long, group = "how", value_name = "TOKEN")]
    pub invitation: Option<String>,
    /// Sign in at an identity provider, by a browser on this machine.
    #[arg(long, group = "how", value_name = "NAME")]
    pub provider: Option<String>,
    /// With --invitation and --claim: your name, for people.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// With --claim: your address; makes the first user too.
    #[arg(long = "as", value_name = "ADDRESS", value_parser = email, requires_all = ["claim", "name"])]
    pub founder: Option<String>,
    /// As root on the machine that runs Stoa.
    #[arg(long, group = "how")]
    pub local: bool,
    /// Read an access token from standard input.
    #[arg(long, group = "how")]
    pub token: bool,
    /// With --local: where the server keeps its data.
    #[arg(
        long,
        env = "STOA_DATA_DIR",
        hide_env_values = true,
        default_value = "/var/lib/stoa",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
}

impl LoginArgs {
    /// Whether a way to sign in was given. clap's own rule for that would refuse `stoa login --json approve` too.
    #[must_use]
    pub fn says_how(&self) -> bool {
        self.claim.is_some()
            || self.email.is_some()
            || self.invitation.is_some()
            || self.provider.is_some()
            || self.name.is_some()
            || self.local
            || self.token
    }
}

/// What `stoa login` does beside signing in.
#[derive(Debug, Clone, Subcommand)]
pub enum LoginCommand {
    /// Sign another machine in, by the code that it shows.
    Approve {
        /// The code.
        code: String,
        /// Keep it out instead.
        #[arg(long)]
        deny: bool,
        /// Do not ask whether it is the right one.
        #[arg(long)]
        yes: bool,
    },
}

/// What `stoa tokens` does.
#[derive(Debug, Clone, Subcommand)]
pub enum TokensCommand {
    /// List tokens; never their texts.
    Ls {
        /// The deploy tokens of the project given with --project instead of your own.
        #[arg(long)]
        deploy: bool,
    },
    /// Make a token and print it, this once.
    Create {
        /// Name for people.
        name: String,
        /// viewer, developer, admin or owner.
        #[arg(long, default_value = "developer", value_name = "ROLE", value_parser = role)]
        role: api::Role,
        /// Bind it to the org given with --org.
        #[arg(long)]
        bound: bool,
        /// Only this right: read, deploy, configure, read_secrets, manage or administer; may be given more than once.
        #[arg(long = "scope", value_name = "RIGHT", value_parser = scope)]
        scopes: Vec<api::Scope>,
        /// Make a deploy token of the project given with --project instead of one of your own.
        #[arg(long, conflicts_with = "bound")]
        deploy: bool,
        /// How long it lives.
        #[arg(long, default_value = "90d", value_name = "TIME")]
        expires: Millis,
    },
    /// End a token at once.
    Revoke {
        /// Its id.
        token: String,
        /// It is a deploy token of the project given with --project.
        #[arg(long)]
        deploy: bool,
    },
}

/// What `stoa members` does.
#[derive(Debug, Clone, Subcommand)]
pub enum MembersCommand {
    /// List the members of an org, or of a project in it.
    Ls {
        /// Of the project given with --project.
        #[arg(long)]
        of_project: bool,
    },
    /// Invite an address; prints a token for that address only, this once.
    Invite {
        /// Whom.
        #[arg(value_parser = email)]
        email: String,
        /// viewer, developer, admin or owner.
        #[arg(long, default_value = "developer", value_name = "ROLE", value_parser = role)]
        role: api::Role,
        /// Only to the project given with --project.
        #[arg(long)]
        of_project: bool,
    },
    /// Give a member another role, or a user one.
    Set {
        /// Address or id.
        user: String,
        /// viewer, developer, admin or owner.
        #[arg(long, value_name = "ROLE", value_parser = role)]
        role: api::Role,
        /// In the project given with --project; it only adds to the role in the org.
        #[arg(long)]
        of_project: bool,
    },
    /// Remove a member at once.
    Rm {
        /// Address or id.
        user: String,
        /// Only from the project given with --project.
        #[arg(long)]
        of_project: bool,
    },
    /// List open invitations; never their texts.
    Invitations,
    /// End an open invitation.
    Uninvite {
        /// Its id.
        invitation: String,
    },
}

/// What `stoa users` does. It needs the right to administer the whole installation.
#[derive(Debug, Clone, Subcommand)]
pub enum UsersCommand {
    /// List users.
    Ls,
    /// Invite an address to the whole installation; prints a token for that address only, this once.
    Invite {
        /// Whom.
        #[arg(value_parser = email)]
        email: String,
        /// viewer, developer, admin or owner of everything.
        #[arg(long, value_name = "ROLE", value_parser = role)]
        role: api::Role,
    },
    /// Give a user a role for the whole installation.
    Set {
        /// Address or id.
        user: String,
        /// viewer, developer, admin or owner of everything.
        #[arg(long, value_name = "ROLE", value_parser = role, required_unless_present = "none")]
        role: Option<api::Role>,
        /// Take the one there is.
        #[arg(long, conflicts_with = "role")]
        none: bool,
    },
    /// Let a user choose a new password; prints a token that works once.
    Reset {
        /// Address or id.
        user: String,
    },
    /// Remove a user with all memberships, sessions and tokens.
    Rm {
        /// Address or id.
        user: String,
        /// The user again, to go on without a question.
        #[arg(long, value_name = "USER")]
        confirm: Option<String>,
    },
}

/// What `stoa providers` does.
#[derive(Debug, Clone, Subcommand)]
pub enum ProvidersCommand {
    /// List them; never their secrets.
    Ls,
    /// Show one; never its secret.
    Info {
        /// Its name.
        name: String,
    },
    /// Make or change one. Its secret is asked for at a terminal, else read from standard input.
    Set {
        /// Its name, in addresses.
        name: model::Name,
        /// Its address, exactly as it calls itself.
        #[arg(long, value_name = "URL")]
        issuer: String,
        /// What it calls this installation.
        #[arg(long, value_name = "ID")]
        client_id: String,
        /// Where browsers reach this installation: https://stoa.example.org.
        #[arg(long, value_name = "URL")]
        origin: String,
        /// It knows this installation by no secret.
        #[arg(long)]
        public: bool,
    },
    /// Remove one. Links with it end, and the sessions of who had one.
    Rm {
        /// Its name.
        name: String,
    },
}

/// What `stoa identities` does.
#[derive(Debug, Clone, Subcommand)]
pub enum IdentitiesCommand {
    /// List yours.
    Ls,
    /// Link an account at a provider with you: by a browser on this machine, and with your password.
    Link {
        /// Name of the provider.
        provider: String,
    },
    /// End a link. Never the only way to sign in.
    Rm {
        /// Its id.
        identity: String,
    },
}

/// What `stoa sessions` does.
#[derive(Debug, Clone, Subcommand)]
pub enum SessionsCommand {
    /// List your sessions.
    Ls,
    /// End one of your sessions at once.
    Revoke {
        /// Its id.
        session: String,
    },
}

fn email(text: &str) -> Result<String, String> {
    text.parse::<model::Email>()
        .map(|email| email.to_string())
        .map_err(|why| why.to_string())
}

fn scope(text: &str) -> Result<api::Scope, String> {
    serde_json::from_value(serde_json::Value::from(text))
        .map_err(|_| "there are read, deploy, configure, read_secrets, manage and administer".to_owned())
}

fn role(text: &str) -> Result<api::Role, String> {
    serde_json::from_value(serde_json::Value::from(text))
        .map_err(|_| "there are viewer, developer, admin and owner".to_owned())
}

/// What `stoa audit` does.
#[derive(Debug, Clone, Subcommand)]
pub enum AuditCommand {
    /// List the newest rows, refusals too.
    Ls {
        /// How many.
        #[arg(long, short = 'n', default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
    },
    /// Check that no row was altered, moved or removed.
    Verify,
    /// Print all rows, newest first, a JSON object a line.
    Export,
}
