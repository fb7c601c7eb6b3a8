//! The list of endpoints. The server routes by it, the client calls by it, the document is made from it.
//!
//! Invariant: [`ALL`] names each one; what is not in it answers 404.

use model::Action::{Administer, Configure, Deploy, Manage, Read, ReadSecrets, See};

use crate::endpoint::Answer::{Accepted, AnyJson, Empty, Forms, Page, Redirect, Text, Upgrade};
use crate::endpoint::Method::{Delete, Get, Patch, Post, Put};
use crate::endpoint::Need::{Credential, Installation, Nothing, Right};
use crate::endpoint::{Endpoint, Query, QueryKind, events, json, query, tagged, text};
use crate::page::{PAGE_DEFAULT, PAGE_MAX};

macro_rules! place {
    ($rest:literal) => {
        concat!(
            "/v1/orgs/{org}/projects/{project}/environments/{environment}",
            $rest
        )
    };
}

macro_rules! endpoints {
    ($($name:ident = $id:literal $method:ident $path:expr, $tag:literal, $need:expr;
        $summary:literal $description:literal
        $(, $set:ident $(::<$body:ty>)? ($($value:expr)?))*;
    )*) => {
        $(
            #[doc = $summary]
            pub const $name: Endpoint = Endpoint::new($id, $method, $path, $tag, $need)
                .about($summary, $description)$(.$set$(::<$body>)?($($value)?))*;
        )*
        /// Every endpoint.
        pub const ALL: &[&Endpoint] = &[$(&$name),*];
    };
}

/// Of a page token: a place in the list and the item before it.
const CURSOR: &str = r"^[1-9][0-9]{0,14}\.[ -~]{1,200}$";
const PAGES: &[Query] = &[
    query(
        "limit",
        QueryKind::Integer(1, PAGE_MAX as u64),
        "How many items at most; 100 when absent.",
    ),
    query(
        "page_token",
        QueryKind::Form(CURSOR),
        "`next_page` of the page before.",
    ),
];
const _: () = assert!(PAGE_DEFAULT == 100, "the text above says 100");

const LIMIT: Query = PAGES[0];
const PAGE_TOKEN: Query = PAGES[1];
/// A filter: only what is exactly so.
const fn only(name: &'static str, about: &'static str) -> Query {
    text(name, about)
}
const OPERATIONS: &[Query] = &[
    LIMIT,
    PAGE_TOKEN,
    only("state", "Only those in that state, for example `running`."),
    only("work", "Only those that do that, for example `deploy`."),
];
const RELEASES: &[Query] = &[
    LIMIT,
    PAGE_TOKEN,
    only("state", "Only those of which that became, for example `proven`."),
];
const INSTANCES: &[Query] = &[
    LIMIT,
    PAGE_TOKEN,
    only("service", "Only those of this service or job."),
    only("condition", "Only those that stand there, for example `ready`."),
];
const DATABASES: &[Query] = &[
    LIMIT,
    PAGE_TOKEN,
    only("state", "Only those in that state, for example `active`."),
];
const IMAGES: &[Query] = &[LIMIT, PAGE_TOKEN, only("name", "Only those that have this name.")];
const EVENTS: &[Query] = &[
    query(
        "since",
        QueryKind::Form("^[0-9]{1,18}$"),
        "The revision after which to begin; 0: with the oldest that is kept; without it, from now on.",
    ),
    only(
        "kind",
        "Only events about things of that kind, for example `app`.",
    ),
    query(
        "follow",
        QueryKind::Boolean,
        "`false`: end the stream when all that happened is told.",
    ),
];

const INSTANCE: Query = query(
    "instance",
    QueryKind::Form("^ins_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
    "Only this instance.",
);
const SINCE: Query = text(
    "since",
    "Only lines since then: a time (RFC 3339), a span such as `1h`, or the `id` of a frame.",
);
const TAIL: Query = query(
    "tail",
    QueryKind::Integer(0, 10_000),
    "Only that many of the last lines; 200 when absent.",
);
const GREP: Query = text("grep", "Only lines that contain this text.");
const FOLLOW_LINES: Query = query(
    "follow",
    QueryKind::Boolean,
    "Keep the event stream open for new lines.",
);
const LOGS: &[Query] = &[
    text("service", "Only this service or job."),
    INSTANCE,
    text("release", "Only this release, for example `v3`."),
    SINCE,
    TAIL,
    GREP,
    FOLLOW_LINES,
];
const DATABASE_LOGS_QUERY: &[Query] = &[INSTANCE, SINCE, TAIL, GREP, FOLLOW_LINES];
/// What a program says whose browser goes to an identity provider (RFC 8252, 7.3).
const PROGRAM: &[Query] = &[
    query(
        "check",
        QueryKind::Boolean,
        "Only say whether one can go there: nobody is sent, and nothing begins.",
    ),
    query(
        "port",
        QueryKind::Integer(1024, 65_535),
        "For programs: where on 127.0.0.1 they wait for their browser.",
    ),
    query(
        "challenge",
        QueryKind::Form("^[A-Za-z0-9_-]{43}$"),
        "For programs: the SHA-256 of their verifier, as in RFC 7636. It is the path that the browser comes to.",
    ),
    text(
        "user_code",
        "For the page that lets a machine in: the code to go on with there.",
    ),
];
/// The code that a machine shows.
const USER_CODE: &[Query] = &[text(
    "user_code",
    "The code that the machine shows; case and dashes do not count.",
)];
/// What providers send browsers back with. They may add what they like (RFC 6749, 4.1.2).
const CALLBACK: &[Query] = &[
    text("code", "What the provider trades for a token, once."),
    text("state", "What the browser was sent with."),
    text("iss", "Who sends the browser back (RFC 9207)."),
];
const OPERATION_LOG: &[Query] = &[
    query(
        "since",
        QueryKind::Integer(0, u32::MAX as u64),
        "Only lines after this `position`, which is also the `id` of a frame.",
    ),
    query(
        "follow",
        QueryKind::Boolean,
        "Keep the event stream open until the operation settles.",
    ),
];

endpoints! {
    CLAIM = "installation_claim" Post "/v1/claim", "people", Nothing;
        "Claim the installation" "Trades the one-time token that `stoa up` printed for an access token of the role owner.",
        takes::<crate::Claim>(), gives(&[json::<crate::IssuedToken>(201)]);
    WHOAMI = "caller_view" Get "/v1/whoami", "people", Credential;
        "Say who the caller is" "",
        gives(&[json::<crate::Whoami>(200)]);
    SESSION_CREATE = "session_create" Post "/v1/sessions", "people", Nothing;
        "Sign in" "With a password. The answer sets the cookie `__Host-stoa` (Secure, HttpOnly, SameSite=Lax); a change that comes with it must come from the same site. An unknown address and a wrong password get the same 401; after too many wrong ones 429 says when the next is looked at. A rehearsal looks at no password.",
        takes::<crate::CreateSession>(), gives(&[json::<crate::SignedIn>(201)]);
    SESSION_LIST = "session_list" Get "/v1/sessions", "people", Credential;
        "List the own sessions" "Newest use first; without their texts. A token needs the right `administer`, bound to no place.",
        query(PAGES), gives(&[json::<crate::SessionPage>(200)]);
    SESSION_DELETE = "session_delete" Delete "/v1/sessions/{session}", "people", Credential;
        "Sign out" "Ends one of the own sessions at once, `current` the one that asks. A token needs the right `administer`, bound to no place.",
        gives(&[Empty]);
    PASSWORD_PUT = "password_put" Put "/v1/password", "people", Credential;
        "Change the own password" "Only by a session, never by a token. Other sessions end; tokens stay.",
        takes::<crate::PutPassword>(), gives(&[Empty]);
    DEVICE_CREATE = "device_create" Post "/v1/device", "people", Nothing;
        "Ask for a code to sign a machine in" "For a machine without a browser (RFC 8628): it shows the code, somebody who is signed in elsewhere approves it, and it asks for its token meanwhile.",
        takes::<crate::CreateDevice>(), gives(&[json::<crate::Device>(201)]);
    DEVICE_TOKEN = "device_token" Post "/v1/device/token", "people", Nothing;
        "Ask for the token of a code" "400 with the code `authorization_pending` until it is approved, `slow_down` when asked too often (the interval is 5 seconds longer then), `access_denied` or `expired_token`. Works once.",
        takes::<crate::PollDevice>(), gives(&[json::<crate::IssuedToken>(201)]);
    DEVICE_VIEW = "device_view" Get "/v1/device/{code}", "people", Credential;
        "Show what waits for approval" "By the code that the machine shows; for users.",
        gives(&[json::<crate::DeviceRequest>(200)]);
    DEVICE_APPROVE = "device_approve" Post "/v1/device/{code}/approve", "people", Credential;
        "Sign a machine in" "As the caller, who must be a user; its token does what the caller may do at any time, cut down to what it asked for.",
        gives(&[Empty]);
    DEVICE_DENY = "device_deny" Post "/v1/device/{code}/deny", "people", Credential;
        "Keep a machine out" "", gives(&[Empty]);
    DEVICE_PAGE = "device_page_view" Get "/device", "people", Nothing;
        "Open the page that lets a machine in" "For browsers: the verification URI of RFC 8628. Without scripts. Who is not signed in is asked to, by password or at an identity provider; who is sees what asks and from where. Looking decides nothing.",
        query(USER_CODE), gives(&[Forms]);
    DEVICE_PAGE_SIGN_IN = "device_page_sign_in" Post "/device/sign-in", "people", Nothing;
        "Sign in on that page" "The form of that page: with a password, as `session_create`. Sends the browser on to the page, with the cookie `__Host-stoa`.",
        takes_form::<crate::DeviceSignIn>(), gives(&[Redirect]);
    DEVICE_PAGE_DECIDE = "device_page_decide" Post "/device", "people", Credential;
        "Say yes or no on that page" "The form of that page: as `device_approve` and `device_deny`.",
        takes_form::<crate::DeviceDecision>(), gives(&[Forms]);
    PROVIDER_LIST = "identity_provider_list" Get "/v1/identity-providers", "people", Installation(Administer);
        "List identity providers" "Without their secrets.",
        query(PAGES), gives(&[json::<crate::IdentityProviderPage>(200)]);
    PROVIDER_VIEW = "identity_provider_view" Get "/v1/identity-providers/{provider}", "people", Installation(Administer);
        "View an identity provider" "Without its secret.", gives(&[tagged::<crate::IdentityProvider>(200)]);
    PROVIDER_PUT = "identity_provider_put" Put "/v1/identity-providers/{provider}", "people", Installation(Administer);
        "Make or change an identity provider" "Of OpenID Connect. It is asked who it is first. With another issuer its people are others: who was linked is not any more.",
        takes::<crate::PutIdentityProvider>(), gives(&[tagged::<crate::IdentityProvider>(200)]), conditional();
    PROVIDER_DELETE = "identity_provider_delete" Delete "/v1/identity-providers/{provider}", "people", Installation(Administer);
        "Remove an identity provider" "Its links end, and so do the sessions of who had one; access tokens stay.", gives(&[Empty]), conditional();
    OIDC_BEGIN = "oidc_begin" Get "/v1/oidc/{provider}", "people", Nothing;
        "Sign in at an identity provider" "For browsers: sends them there, with a cookie by which they are known when they come back within ten minutes. For a program that waits for its browser it says where. With `check` it only says whether that is possible.",
        query(PROGRAM), gives(&[Redirect, Empty]);
    OIDC_FINISH = "oidc_finish" Get "/v1/oidc/{provider}/callback", "people", Nothing;
        "Come back from an identity provider" "For browsers. Let in is who is linked, or has an open invitation of the address that the provider has verified and is no user yet. Sets the cookie of a session; or sends the browser on to the program that waits for it, with a `code` or an `error`.",
        query(CALLBACK), gives(&[Redirect, Forms]);
    OIDC_SESSION_CREATE = "oidc_session_create" Post "/v1/oidc/sessions", "people", Nothing;
        "Fetch the session of a browser that came back" "For the program that waited for it: within two minutes, once. As with a password, the answer sets the cookie `__Host-stoa`.",
        takes::<crate::FetchSession>(), gives(&[json::<crate::SignedIn>(201)]);
    IDENTITY_LIST = "identity_list" Get "/v1/identities", "people", Credential;
        "List the own accounts at identity providers" "Those that are linked.",
        query(PAGES), gives(&[json::<crate::IdentityPage>(200)]);
    IDENTITY_CREATE = "identity_create" Post "/v1/identities", "people", Credential;
        "Link an account of an identity provider" "With the code that a browser brought back, and the own password: from then on that account signs in as the caller.",
        takes::<crate::LinkIdentity>(), gives(&[json::<crate::Identity>(201)]);
    IDENTITY_DELETE = "identity_delete" Delete "/v1/identities/{identity}", "people", Credential;
        "End a link" "Of an own account; never the only way to sign in. Sessions and access tokens stay.", gives(&[Empty]);
    TOKEN_LIST = "token_list" Get "/v1/tokens", "people", Credential;
        "List access tokens" "The own ones; all, for who administers the installation. A token of less than the right `administer`, or bound to a place, sees itself and those it made. Without their texts.",
        query(PAGES), gives(&[json::<crate::TokenPage>(200)]);
    TOKEN_CREATE = "token_create" Post "/v1/tokens", "people", Credential;
        "Make an access token" "A user makes them for himself, as strong as he is at any time; a token makes one only with the right `administer`, and none that is stronger or outlives it. Its text is in this answer and never shown again.",
        takes::<crate::CreateToken>(), gives(&[json::<crate::IssuedToken>(201)]);
    TOKEN_DELETE = "token_delete" Delete "/v1/tokens/{token}", "people", Credential;
        "Revoke an access token" "It is refused from the next request on, with those it made, and open streams end within a second.",
        gives(&[Empty]);
    USER_LIST = "user_list" Get "/v1/users", "people", Installation(Administer);
        "List users" "Needs the right for the whole installation.",
        query(PAGES), gives(&[json::<crate::UserPage>(200)]);
    USER_VIEW = "user_view" Get "/v1/users/{user}", "people", Installation(Administer);
        "Show a user" "By address or id.",
        gives(&[json::<crate::User>(200)]);
    USER_DELETE = "user_delete" Delete "/v1/users/{user}", "people", Installation(Administer);
        "Remove a user" "With all memberships, sessions, tokens and invitations, at once. Refused for the last owner of something.",
        gives(&[Empty]);
    USER_ROLE_PUT = "user_role_put" Put "/v1/users/{user}/role", "people", Installation(Administer);
        "Give a user a role for the whole installation" "Nobody gives more than the own.",
        takes::<crate::PutRole>(), gives(&[json::<crate::User>(200)]);
    USER_ROLE_DELETE = "user_role_delete" Delete "/v1/users/{user}/role", "people", Installation(Administer);
        "Take a user's role for the whole installation" "Roles in orgs and projects stay.",
        gives(&[json::<crate::User>(200)]);
    USER_RESET = "user_reset" Post "/v1/users/{user}/reset", "people", Installation(Administer);
        "Let a user choose a new password" "Gives a text that works once within 24 hours, as an invitation does.",
        gives(&[json::<crate::IssuedInvitation>(201)]);
    USER_INVITATION_LIST = "user_invitation_list" Get "/v1/invitations", "people", Installation(Administer);
        "List open invitations to the installation" "Without their texts.",
        query(PAGES), gives(&[json::<crate::InvitationPage>(200)]);
    USER_INVITATION_CREATE = "user_invitation_create" Post "/v1/invitations", "people", Installation(Administer);
        "Invite an address to the whole installation" "The text is in this answer and never shown again; it works once within 7 days.",
        takes::<crate::CreateUserInvitation>(), gives(&[json::<crate::IssuedInvitation>(201)]);
    USER_INVITATION_DELETE = "user_invitation_delete" Delete "/v1/invitations/{invitation}", "people", Installation(Administer);
        "End an invitation to the installation" "", gives(&[Empty]);
    INVITATION_ACCEPT = "invitation_accept" Post "/v1/invitations/accept", "people", Nothing;
        "Take an invitation" "Makes the user when there is none of that address, and signs in as `session_create` does. It is worth what its maker may give at that time.",
        takes::<crate::AcceptInvitation>(), gives(&[json::<crate::SignedIn>(201)]);
    MEMBER_LIST = "member_list" Get "/v1/orgs/{org}/members", "people", Right(Read);
        "List members of an org" "", query(PAGES), gives(&[json::<crate::MemberPage>(200)]);
    MEMBER_PUT = "member_put" Put "/v1/orgs/{org}/members/{user}", "people", Right(Administer);
        "Give a member of an org another role" "Or make a user one. Nobody gives or takes more than the own role; the last owner stays owner.",
        takes::<crate::PutRole>(), gives(&[json::<crate::Member>(200)]);
    MEMBER_DELETE = "member_delete" Delete "/v1/orgs/{org}/members/{user}", "people", Right(See);
        "Remove a member of an org" "From its projects too; it counts from the next request on, also for open streams. Anybody may leave but the last owner; others need the right `administer`.",
        gives(&[Empty]);
    INVITATION_LIST = "invitation_list" Get "/v1/orgs/{org}/invitations", "people", Right(Administer);
        "List open invitations to an org" "And to its projects. Without their texts.",
        query(PAGES), gives(&[json::<crate::InvitationPage>(200)]);
    INVITATION_CREATE = "invitation_create" Post "/v1/orgs/{org}/invitations", "people", Right(See);
        "Invite an address to an org or a project" "The text is in this answer and never shown again; it works once within 7 days and only for that address. Needs the right `administer` in the org, or in the project.",
        takes::<crate::CreateInvitation>(), gives(&[json::<crate::IssuedInvitation>(201)]);
    INVITATION_DELETE = "invitation_delete" Delete "/v1/orgs/{org}/invitations/{invitation}", "people", Right(Administer);
        "End an invitation" "", gives(&[Empty]);
    PROJECT_MEMBER_LIST = "project_member_list" Get "/v1/orgs/{org}/projects/{project}/members", "people", Right(Read);
        "List members of a project" "Those who have a role in it beside the one in its org.",
        query(PAGES), gives(&[json::<crate::MemberPage>(200)]);
    PROJECT_MEMBER_PUT = "project_member_put" Put "/v1/orgs/{org}/projects/{project}/members/{user}", "people", Right(Administer);
        "Give somebody a role in a project" "It only adds to the role in the org. Nobody gives more than the own role.",
        takes::<crate::PutRole>(), gives(&[json::<crate::Member>(200)]);
    PROJECT_MEMBER_DELETE = "project_member_delete" Delete "/v1/orgs/{org}/projects/{project}/members/{user}", "people", Right(See);
        "Take somebody's role in a project" "A role in the org stays. Anybody may leave; others need the right `administer`.",
        gives(&[Empty]);
    DEPLOY_TOKEN_LIST = "deploy_token_list" Get "/v1/orgs/{org}/projects/{project}/tokens", "people", Right(Administer);
        "List deploy tokens of a project" "Without their texts.",
        query(PAGES), gives(&[json::<crate::TokenPage>(200)]);
    DEPLOY_TOKEN_CREATE = "deploy_token_create" Post "/v1/orgs/{org}/projects/{project}/tokens", "people", Right(Administer);
        "Make a deploy token of a project" "It begins with `stoa_dpl_`, counts in this project only, and ends with its maker's own rights there. Its text is in this answer and never shown again.",
        takes::<crate::CreateDeployToken>(), gives(&[json::<crate::IssuedToken>(201)]);
    DEPLOY_TOKEN_DELETE = "deploy_token_delete" Delete "/v1/orgs/{org}/projects/{project}/tokens/{token}", "people", Right(Administer);
        "Revoke a deploy token" "It is refused from the next request on, and open streams of it end within a second.",
        gives(&[Empty]);
    AUDIT_LIST = "audit_list" Get "/v1/audit", "people", Installation(Administer);
        "Read the audit log" "Newest first. Reading it is audited too.",
        query(PAGES), gives(&[json::<crate::AuditPage>(200)]);
    AUDIT_VERIFY = "audit_verify" Post "/v1/audit/verify", "people", Installation(Administer);
        "Verify the audit log" "Walks the chain of all rows and names the first one that was altered, moved or removed.",
        gives(&[json::<crate::AuditVerification>(200)]);

    ORG_LIST = "org_list" Get "/v1/orgs", "places", Credential;
        "List orgs" "Those the caller may see.",
        query(PAGES), gives(&[json::<crate::OrgPage>(200)]);
    ORG_CREATE = "org_create" Post "/v1/orgs", "places", Installation(Administer);
        "Make an org" "It has no project yet.",
        takes::<crate::CreateOrg>(), gives(&[tagged::<crate::Org>(201)]);
    ORG_VIEW = "org_view" Get "/v1/orgs/{org}", "places", Right(See);
        "Show an org" "", gives(&[tagged::<crate::Org>(200)]);
    ORG_UPDATE = "org_update" Patch "/v1/orgs/{org}", "places", Right(Administer);
        "Rename an org" "Its id stays, and so does what is in it.",
        takes::<crate::Rename>(), gives(&[tagged::<crate::Org>(200)]), conditional();
    ORG_DELETE = "org_delete" Delete "/v1/orgs/{org}", "places", Installation(Administer);
        "Remove an empty org" "409 with what is in it while it has a project. Memberships end with it, tokens bound to it are revoked.",
        gives(&[Empty]), conditional();
    PROJECT_LIST = "project_list" Get "/v1/orgs/{org}/projects", "places", Right(See);
        "List projects of an org" "Those the caller may see.", query(PAGES), gives(&[json::<crate::ProjectPage>(200)]);
    PROJECT_CREATE = "project_create" Post "/v1/orgs/{org}/projects", "places", Right(Administer);
        "Make a project" "It has no environment yet.",
        takes::<crate::CreateProject>(), gives(&[tagged::<crate::Project>(201)]);
    PROJECT_VIEW = "project_view" Get "/v1/orgs/{org}/projects/{project}", "places", Right(See);
        "Show a project" "", gives(&[tagged::<crate::Project>(200)]);
    PROJECT_UPDATE = "project_update" Patch "/v1/orgs/{org}/projects/{project}", "places", Right(Administer);
        "Rename a project" "Its id stays, and so does what is in it.",
        takes::<crate::Rename>(), gives(&[tagged::<crate::Project>(200)]), conditional();
    PROJECT_DELETE = "project_delete" Delete "/v1/orgs/{org}/projects/{project}", "places", Right(Administer);
        "Remove an empty project" "409 with what is in it while it has an environment. Needs the right for the whole org.",
        gives(&[Empty]), conditional();
    ENVIRONMENT_LIST = "environment_list" Get "/v1/orgs/{org}/projects/{project}/environments", "places", Right(Read);
        "List environments of a project" "", query(PAGES), gives(&[json::<crate::EnvironmentPage>(200)]);
    ENVIRONMENT_CREATE = "environment_create" Post "/v1/orgs/{org}/projects/{project}/environments", "places", Right(Administer);
        "Make an environment" "It gets a private network of its own.",
        takes::<crate::CreateEnvironment>(), gives(&[json::<crate::Environment>(201)]);
    ENVIRONMENT_VIEW = "environment_view" Get place!(""), "places", Right(Read);
        "Show an environment" "", gives(&[tagged::<crate::Environment>(200)]);
    ENVIRONMENT_DELETE = "environment_delete" Delete place!(""), "places", Right(Administer);
        "Remove an empty environment" "409 with what is in it while there is an app, a database, the kept data of one that was ended, or an operation under way.",
        gives(&[Empty]), conditional();

    UPLOAD_CREATE = "upload_create" Post place!("/uploads"), "releases", Right(Deploy);
        "Send an archive" "A tar archive, plain or compressed with gzip or zstd. At most 2 GiB as sent. It is removed when no release or image used it for a day.",
        takes_archive(), gives(&[json::<crate::Upload>(201)]);

    APP_LIST = "app_list" Get place!("/apps"), "apps", Right(Read);
        "List apps" "", query(PAGES), gives(&[json::<crate::AppPage>(200)]);
    APP_CREATE = "app_create" Post place!("/apps"), "apps", Right(Manage);
        "Make an app" "It serves nothing until its first release.",
        takes::<crate::CreateApp>(), gives(&[tagged::<crate::App>(201)]);
    APP_VIEW = "app_view" Get place!("/apps/{app}"), "apps", Right(Read);
        "Show an app" "", gives(&[tagged::<crate::App>(200)]);
    APP_DELETE = "app_delete" Delete place!("/apps/{app}"), "apps", Right(Manage);
        "Remove an app" "Its instances are drained and ended, its routes and releases removed. Databases stay.",
        gives(&[Accepted]), conditional();
    APP_ENV_VIEW = "app_env_view" Get place!("/apps/{app}/env"), "apps", Right(Read);
        "Show the configuration set by hand" "", gives(&[json::<crate::AppEnv>(200)]);
    APP_ENV_UPDATE = "app_env_update" Patch place!("/apps/{app}/env"), "apps", Right(Configure);
        "Set and remove variables" "When a release serves, an operation makes a new release with the new configuration; the answer names it.",
        takes::<crate::PatchEnv>(), gives(&[json::<crate::AppEnv>(200)]), conditional();
    SECRET_LIST = "secret_list" Get place!("/apps/{app}/secrets"), "apps", Right(Read);
        "List the names and versions of secrets" "Values are never shown.",
        query(PAGES), gives(&[json::<crate::SecretPage>(200)]);
    SECRET_UPDATE = "secret_update" Patch place!("/apps/{app}/secrets"), "apps", Right(Configure);
        "Set and remove secrets" "All of them or none. When a release serves, one operation makes one new release with all of it; the answer names it.",
        takes::<crate::PatchSecrets>(), gives(&[json::<crate::SecretsChange>(200)]);
    SECRET_PUT = "secret_put" Put place!("/apps/{app}/secrets/{key}"), "apps", Right(Configure);
        "Set a secret" "When a release serves, an operation makes a new release with the new value; the answer names it.",
        takes::<crate::PutSecret>(), gives(&[json::<crate::SecretChange>(200)]), conditional();
    SECRET_DELETE = "secret_delete" Delete place!("/apps/{app}/secrets/{key}"), "apps", Right(Configure);
        "Remove a secret" "Releases that froze a version of it keep that version.", gives(&[json::<crate::SecretChange>(200)]), conditional();
    APP_SCALE = "app_scale" Put place!("/apps/{app}/scale"), "apps", Right(Deploy);
        "Set how many instances run" "The counts outlive releases.",
        takes::<crate::PutScale>(), gives(&[Accepted]), conditional();
    APP_RESTART = "app_restart" Post place!("/apps/{app}/restart"), "apps", Right(Deploy);
        "Replace all instances by fresh ones" "As a rollout of the same release: no request fails.", gives(&[Accepted]);
    APP_RUN = "app_run" Post place!("/apps/{app}/run"), "apps", Right(Deploy);
        "Run one command" "In an instance of its own, of the serving release. The operation's log has its output. The right `read_secrets` is needed, too: what runs there sees the secrets.",
        takes::<crate::Run>(), gives(&[Accepted]);
    INSTANCE_LIST = "instance_list" Get place!("/apps/{app}/instances"), "apps", Right(Read);
        "List instances" "Those that run, and those that ended not long ago.",
        query(INSTANCES), gives(&[json::<crate::InstancePage>(200)]);
    INSTANCE_EXEC = "instance_exec" Post place!("/apps/{app}/instances/{instance}/exec"), "apps", Right(Deploy);
        "Run a program inside an instance" "Send `Connection: Upgrade` and `Upgrade: stoa-exec`. After 101 both sides send frames: one byte stream, four bytes length (big endian), then that many bytes. Streams: 0 standard input (length 0 ends it), 1 standard output, 2 standard error, 3 terminal size (rows and columns, two bytes each), 4 exit code (four bytes, signed; the last frame), 5 a sentence why it could not go on (the last frame). A frame has at most 65536 bytes. The right `read_secrets` is needed, too: what runs there sees the secrets.",
        takes::<crate::Exec>(), gives(&[Upgrade]);
    INSTANCE_VIEW = "instance_view" Get place!("/apps/{app}/instances/{instance}"), "apps", Right(Read);
        "Show an instance" "One that runs, or that ended not long ago.", gives(&[json::<crate::Instance>(200)]);
    APP_METRICS = "app_metrics" Get place!("/apps/{app}/metrics"), "apps", Right(Read);
        "Read metrics of an app" "Requests by service and release as the edge counts them, and what its instances use now. `/metrics` has the counters of all apps for Prometheus.",
        gives(&[json::<crate::AppMetrics>(200)]);
    SECRET_VIEW = "secret_view" Get place!("/apps/{app}/secrets/{key}"), "apps", Right(Read);
        "Show the version of a secret" "Its value is never shown. The version is its `ETag`.", gives(&[tagged::<crate::Secret>(200)]);
    APP_LOGS = "app_logs" Get place!("/apps/{app}/logs"), "apps", Right(Read);
        "Read logs" "Of all releases, oldest first. As JSON, or as an event stream when `Accept` says `text/event-stream`: frames `line` with a `LogLine`; the `id` resumes.",
        query(LOGS), gives(&[json::<crate::LogPage>(200), events::<crate::LogLine>()]);

    RELEASE_LIST = "release_list" Get place!("/apps/{app}/releases"), "releases", Right(Read);
        "List releases" "Newest first. With a filter a page may be short, or empty, and not be the last.", query(RELEASES), gives(&[json::<crate::ReleasePage>(200)]);
    RELEASE_CREATE = "release_create" Post place!("/apps/{app}/releases"), "releases", Right(Deploy);
        "Make a release and move the app to it" "Builds when needed, runs the release job, starts instances, checks them, switches the routes at once and drains the old instances. When anything fails before the switch, the old release stays and the operation says why (`release_rejected`). With `dry_run` it answers 200 and what it would do instead.",
        takes::<crate::CreateRelease>(), foretelling(), gives(&[json::<crate::ReleasePlan>(200), Accepted]);
    RELEASE_VIEW = "release_view" Get place!("/apps/{app}/releases/{release}"), "releases", Right(Read);
        "Show a release" "By name (`v3`) or id.", gives(&[json::<crate::Release>(200)]);
    ROLLOUT_VIEW = "rollout_view" Get place!("/apps/{app}/rollout"), "releases", Right(Read);
        "Show the rollout under way" "How far it is, what it waits for, and what failed. 404 when the app does not move.",
        gives(&[json::<crate::Rollout>(200)]);
    APP_ROLLBACK = "app_rollback" Post place!("/apps/{app}/rollback"), "releases", Right(Deploy);
        "Move the app back to an earlier release" "Image, configuration and routes in one step.",
        may_take::<crate::Rollback>(), gives(&[Accepted]);

    DATABASE_LIST = "database_list" Get place!("/databases"), "databases", Right(Read);
        "List databases" "", query(DATABASES), gives(&[json::<crate::DatabasePage>(200)]);
    DATABASE_CREATE = "database_create" Post place!("/databases"), "databases", Right(Manage);
        "Make a database" "PostgreSQL in an instance and volume of its own.",
        takes::<crate::CreateDatabase>(), gives(&[Accepted]);
    DATABASE_VIEW = "database_view" Get place!("/databases/{database}"), "databases", Right(Read);
        "Show a database" "", gives(&[tagged::<crate::Database>(200)]);
    DATABASE_UPDATE = "database_update" Patch place!("/databases/{database}"), "databases", Right(Manage);
        "Change a database" "The server follows within seconds, without a restart: `backup_level` tells what is true now.",
        takes::<crate::UpdateDatabase>(), gives(&[tagged::<crate::Database>(200)]), conditional();
    DATABASE_DELETE = "database_delete" Delete place!("/databases/{database}"), "databases", Right(Manage);
        "End a database" "Its volume is kept under another name for a grace period.", gives(&[Accepted]), conditional();
    DATABASE_ROTATE = "database_rotate" Post place!("/databases/{database}/rotate"), "databases", Right(Configure);
        "Give a database a new password" "By a second login role: services get the new one with their next release, the old one ends when nobody uses it.",
        gives(&[Accepted]);
    DATABASE_RESTART = "database_restart" Post place!("/databases/{database}/restart"), "databases", Right(Configure);
        "Restart the server of a database" "Another instance of the same volume, from the newest image of its version. Clients of its pooler wait meanwhile; other sessions end once.",
        gives(&[Accepted]);
    DATABASE_BRANCH = "database_branch" Post place!("/databases/{database}/branches"), "databases", Right(Manage);
        "Make a branch of a database" "A copy of it as it runs, with logins of its own and without durability: it may be lost with the machine's power.",
        takes::<crate::CreateBranch>(), gives(&[Accepted]);
    DATABASE_RESET = "database_reset" Post place!("/databases/{database}/reset"), "databases", Right(Manage);
        "Give a branch the data its parent has now" "What the branch has is lost; its address and logins stay.",
        gives(&[Accepted]);
    DATABASE_BACKUPS_VIEW = "database_backups_view" Get place!("/databases/{database}/backups"), "databases", Right(Read);
        "Show the backup of a database" "What it can be restored to, and what is missing. What lies on this server helps against mistakes, not against the loss of the disk; `elsewhere` tells how far it is on the target.",
        gives(&[json::<crate::DatabaseBackups>(200)]);
    DATABASE_BACKUP = "database_backup" Post place!("/databases/{database}/backups"), "databases", Right(Manage);
        "Take a base of a database" "A copy to begin a restore from. One is taken by itself each day.",
        gives(&[Accepted]);
    DATABASE_DRILL_LIST = "database_drill_list" Get place!("/databases/{database}/drills"), "databases", Right(Read);
        "List drills of a database's backup" "Newest first; the last thirty of each copy are kept.", query(PAGES), gives(&[json::<crate::DrillPage>(200)]);
    DATABASE_DRILL = "database_drill" Post place!("/databases/{database}/drills"), "databases", Right(Manage);
        "Prove the backup of a database" "Restores it into a throw-away instance without a network and looks: files of the base, end of the log, canary, `pg_amcheck`, every row. It is done by itself each day. With `target`, everything is fetched from the target elsewhere; that is done by itself after each base there, too. The operation fails when the backup does not bring the database back, and names the check.",
        may_take::<crate::CreateDrill>(), gives(&[Accepted]);
    DATABASE_DRILL_VIEW = "database_drill_view" Get place!("/databases/{database}/drills/{drill}"), "databases", Right(Read);
        "Show a drill" "What each check found.", gives(&[json::<crate::Drill>(200)]);
    DATABASE_RESTORE = "database_restore" Post place!("/databases/{database}/restores"), "databases", Right(Manage);
        "Restore a database into a new one" "As of a time, a place in its log, or the latest. The database it is of stays as it is. `invalid` names what can be restored to.",
        takes::<crate::CreateRestore>(), gives(&[Accepted]);
    DATABASE_PROMOTE = "database_promote" Post place!("/databases/{database}/promote"), "databases", Right(Manage);
        "Put a restored database in the place of this one" "It takes over name and logins, so that everybody who uses this one uses it; no query of a program that tries once more fails. This one is kept under another name for a while. What was written to it after the restored moment is not in the new one.",
        takes::<crate::PromoteDatabase>(), gives(&[Accepted]);
    DATABASE_UPGRADE = "database_upgrade" Post place!("/databases/{database}/upgrade"), "databases", Right(Manage);
        "Put a database at a later major version" "Rehearsed with a copy first, which says for how long the database will not answer; when that is longer than is allowed, or the copy is not sound, nothing is changed. Then its server ends, a copy of its volume is upgraded and takes over name and logins. The one at the former version is kept under another name for a while, and whatever fails before, it serves again.",
        takes::<crate::UpgradeDatabase>(), gives(&[Accepted]);
    DATABASE_ENGINE_LIST = "database_engine_list" Get "/v1/database-engines", "databases", Right(Read);
        "List the versions of PostgreSQL that databases can have here" "Any image called `postgres:VERSION` that has that version in `/usr/lib/postgresql/VERSION` is one.",
        query(PAGES), gives(&[json::<crate::DatabaseEnginePage>(200)]);
    DATABASE_RESTORE_FROM_TARGET = "database_restore_from_target" Post place!("/restores"), "databases", Installation(Administer);
        "Restore a database from the target elsewhere" "Also one of a server that is gone, when the target was set with its key. Needs the right for the whole installation: the key opens everybody's. `invalid` names what can be restored to.",
        takes::<crate::RestoreFromTarget>(), gives(&[Accepted]);
    DATABASE_ACTIVITY_VIEW = "database_activity_view" Get place!("/databases/{database}/activity"), "databases", Right(ReadSecrets);
        "Show what the server of a database does now" "Its sessions. The right is that of the credentials, because queries hold values.", gives(&[json::<crate::DatabaseActivity>(200)]);
    DATABASE_STATEMENTS_VIEW = "database_statements_view" Get place!("/databases/{database}/statements"), "databases", Right(ReadSecrets);
        "Show what the server of a database has spent its time on" "Its statements as `pg_stat_statements` counts them. The right is that of the credentials, because a statement may hold a value. 409 when the server does not count: its image lacks that library, or it was started before Stoa counted.", gives(&[json::<crate::DatabaseStatements>(200)]);
    DATABASE_LOGS = "database_logs" Get place!("/databases/{database}/logs"), "databases", Right(ReadSecrets);
        "Read what the server of a database printed" "Of its pooler, too, and of those that ended; oldest first. As JSON, or as an event stream when `Accept` says `text/event-stream`: frames `line` with a `LogLine`; the `id` resumes. The right is that of the credentials, because PostgreSQL repeats statements that failed, with the values in them. A branch that sleeps sleeps on.",
        query(DATABASE_LOGS_QUERY), gives(&[json::<crate::LogPage>(200), events::<crate::LogLine>()]);
    DATABASE_SETTINGS_VIEW = "database_settings_view" Get place!("/databases/{database}/settings"), "databases", Right(ReadSecrets);
        "Show how the server of a database is set" "What is not PostgreSQL's default, and where it comes from. The right is that of the credentials, because a setting may hold a secret.", gives(&[json::<crate::DatabaseSettings>(200)]);
    DATABASE_CREDENTIALS = "database_credentials_view" Get place!("/databases/{database}/credentials"), "databases", Right(ReadSecrets);
        "Show how to sign in to a database" "Each call is audited.", gives(&[json::<crate::DatabaseCredentials>(200)]);
    DATABASE_EXEC = "database_exec" Post place!("/databases/{database}/exec"), "databases", Right(ReadSecrets);
        "Open psql inside the instance of a database" "The arguments are psql's. The stream is that of `instance_exec`.",
        takes::<crate::Exec>(), gives(&[Upgrade]);
    DATABASE_TUNNEL = "database_tunnel" Post place!("/databases/{database}/tunnel"), "databases", Right(ReadSecrets);
        "Connect to the server of a database" "The stream is that of `instance_exec`: what is sent as 0 goes to the server's port, what the server says comes as 1, and 4 comes when it closed. Who connects signs in there, as services do. Each call is audited.",
        gives(&[Upgrade]);

    VOLUME_LIST = "volume_list" Get place!("/volumes"), "databases", Right(Read);
        "List volumes" "Those of databases, and those kept of destroyed ones. Their bytes are counted for the answer.",
        query(PAGES), gives(&[json::<crate::VolumePage>(200)]);
    VOLUME_VIEW = "volume_view" Get place!("/volumes/{volume}"), "databases", Right(Read);
        "Show a volume" "", gives(&[json::<crate::Volume>(200)]);

    IMAGE_LIST = "image_list" Get "/v1/images", "images", Right(Read);
        "List images" "Those of the projects and orgs that the caller may read, and those for everybody; all, for who reads the whole installation.", query(IMAGES), gives(&[json::<crate::ImagePage>(200)]);
    IMAGE_CREATE = "image_create" Post "/v1/images", "images", Installation(Administer);
        "Get an image into the store" "For all orgs, or for the one that the body names. What a deploy gets is its project's alone.", takes::<crate::CreateImage>(), gives(&[Accepted]);
    IMAGE_VIEW = "image_view" Get "/v1/images/{image}", "images", Right(Read);
        "Show an image" "By name or digest. Its digest is its `ETag`. What is others' is answered as what is not there.", gives(&[tagged::<crate::ImageDetail>(200)]);
    IMAGE_DELETE = "image_delete" Delete "/v1/images/{image}", "images", Installation(Administer);
        "Remove an image" "A name goes at once; the content stays for as long as a release, instance or database uses it.", gives(&[Empty]), conditional_by_digest();

    OPERATION_LIST = "operation_list" Get place!("/operations"), "operations", Right(Read);
        "List operations of an environment" "Newest first. With a filter a page may be short, or empty, and not be the last.", query(OPERATIONS), gives(&[json::<crate::OperationPage>(200)]);
    OPERATION_LIST_ALL = "operation_list_all" Get "/v1/operations", "operations", Credential;
        "List operations of the installation" "Newest first: those of all environments that the caller may read. With a filter a page may be short, or empty, and not be the last.",
        query(OPERATIONS), gives(&[json::<crate::OperationPage>(200)]);
    OPERATION_VIEW = "operation_view" Get "/v1/operations/{operation}", "operations", Right(Read);
        "Show an operation" "With `wait` the answer comes when it settles, or after that time.",
        query(&[query("wait", QueryKind::Duration, "How long to wait for it to settle; more than `60s` counts as that.")]),
        gives(&[json::<crate::Operation>(200)]);
    OPERATION_CANCEL = "operation_cancel" Post "/v1/operations/{operation}/cancel", "operations", Right(Deploy);
        "Give an operation up" "It settles soon after, as `canceled` or as what it had become.", gives(&[Accepted]);
    OPERATION_LOG_VIEW = "operation_log" Get "/v1/operations/{operation}/log", "operations", Right(Read);
        "Read the log of an operation" "What its build, release job or command printed. As JSON, or as an event stream when `Accept` says `text/event-stream`: frames `line` with an `OperationLine`, and a last frame `end` when the operation settled.",
        query(OPERATION_LOG), gives(&[json::<crate::OperationLog>(200), events::<crate::OperationLine>()]);

    EVENT_WATCH = "event_watch" Get "/v1/events", "installation", Credential;
        "Watch what changes" "An event stream of `event` frames about what the caller may see. Resume with `since` or `Last-Event-ID`; an `id` without data tells where to go on from when nothing came. 410 means that revision is no longer kept: list again.",
        query(EVENTS), gives(&[events::<crate::Event>()]);
    NODE_LIST = "node_list" Get "/v1/nodes", "installation", Right(Read);
        "List nodes" "The machines of the installation: one.", query(PAGES), gives(&[json::<crate::NodePage>(200)]);
    NODE_VIEW = "node_view" Get "/v1/nodes/{node}", "installation", Right(Read);
        "Show a node" "What it is and what is left of it.", gives(&[json::<crate::Node>(200)]);
    SERVER_VIEW = "server_view" Get "/v1/server", "installation", Right(Read);
        "Show the installation" "", gives(&[json::<crate::Server>(200)]);
    MASTER_KEY_VIEW = "master_key_view" Get "/v1/server/master-key", "installation", Installation(Administer);
        "Show which master key seals" "By public names; a key itself is never shown.",
        gives(&[json::<crate::MasterKey>(200)]);
    MASTER_KEY_ROTATE = "master_key_rotate" Post "/v1/server/master-key/rotate", "installation", Installation(Administer);
        "Go over to another master key" "A new key seals from then on, everything sealed is sealed again with it, and the old one is taken out of the key's file. Nothing stops meanwhile; the operation's step counts. Older copies of the store open only with the key's file of their time.",
        gives(&[Accepted]);
    BACKUP_TARGET_VIEW = "backup_target_view" Get "/v1/server/backup-target", "installation", Installation(Administer);
        "Show where backups are also written to" "404 without a target. Keys are never shown.",
        gives(&[tagged::<crate::BackupTarget>(200)]);
    BACKUP_TARGET_PUT = "backup_target_put" Put "/v1/server/backup-target", "installation", Installation(Administer);
        "Write backups also to a target elsewhere" "It is proven first: an object is written, read, listed and removed. Everything that goes there is sealed; the key is in this answer when it was made now, and never shown again. With `backup_key` what another server wrote there can be restored; one that opens nothing there is refused.",
        takes::<crate::PutBackupTarget>(), gives(&[tagged::<crate::SetBackupTarget>(200)]), conditional();
    BACKUP_TARGET_DELETE = "backup_target_delete" Delete "/v1/server/backup-target", "installation", Installation(Administer);
        "Write backups to no target any more" "What is there stays there, and opens only with its key.", gives(&[Empty]), conditional();
    BACKUP_KEY_CHECK = "backup_key_check" Post "/v1/server/backup-target/check-key", "installation", Installation(Administer);
        "Show that the backup key is kept elsewhere" "Until that was done once, the key may be lost with this machine, and the backup with it.",
        takes::<crate::CheckBackupKey>(), gives(&[json::<crate::BackupTarget>(200)]);
    BACKUP_TARGET_VERIFY = "backup_target_verify" Post "/v1/server/backup-target/verify", "installation", Installation(Administer);
        "Read everything on the backup target" "Every object that a catalogue names, of this server's databases and others', as far as the key opens them: it is fetched, opened, and its size, name and content are compared. Nothing is changed. The operation fails when something is damaged or missing; its log names each object, and what can be restored without.",
        gives(&[Accepted]);
    TARGET_DATABASE_LIST = "target_database_list" Get "/v1/server/backup-target/databases", "installation", Installation(Administer);
        "List databases whose backup is on the target" "This server's and others', as far as the key opens them: what they can be restored to, and what is missing. Objects are looked at by name and size.",
        query(PAGES), gives(&[json::<crate::TargetDatabasePage>(200)]);
    HEALTH = "health_view" Get "/healthz", "installation", Nothing;
        "Say that the process answers" "", gives(&[json::<crate::Health>(200)]);
    READINESS = "readiness_view" Get "/readyz", "installation", Nothing;
        "Say whether requests can be served" "503 while the store can not be read.", gives(&[json::<crate::Health>(200)]);
    METRICS = "metrics_view" Get "/metrics", "installation", Installation(Read);
        "Read metrics" "In the text form of Prometheus.", gives(&[Text]);
    DOCUMENT = "document_view" Get "/openapi.json", "installation", Nothing;
        "Get this document" "", gives(&[AnyJson]);
    REFERENCE = "reference_view" Get "/docs", "installation", Nothing;
        "Read this document as a page" "Made from it; without scripts, and nothing in it comes from elsewhere.",
        gives(&[Page("text/html")]);
    REFERENCE_STYLE = "reference_style_view" Get "/docs/style.css", "installation", Nothing;
        "Get the style of that page" "", gives(&[Page("text/css")]);
    MANIFEST_SCHEMA = "manifest_schema_view" Get "/schema/stoa-1.json", "installation", Nothing;
        "Get the JSON Schema of stoa.toml" "Draft-07, for editors: name its address in a first line `#:schema ADDRESS`.",
        gives(&[AnyJson]);
}
