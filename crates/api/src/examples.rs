//! An example for every field and parameter of the document, and whole bodies made of them.
//!
//! Lives here: the values. Does not live here: what a field means (its own description).
//! Invariant: every field has one and it fits the field's own schema; a new field without one fails a test, which is mended
//! by a line here. What can only be one of a few values, or is a time, needs none.

use serde_json::{Map, Value, json};

/// A field's name, or `Schema.field` where one name means several things; its example as JSON.
const FIELDS: &[(&str, &str)] = &[
    ("BackupGap.after", r#""000000010000000000000007""#),
    ("BackupGap.before", r#""000000010000000000000009""#),
    ("BackupPlace.path", r#""/mnt/backup""#),
    ("BackupPlace.prefix", r#""stoa""#),
    ("TargetDatabase.id", r#""db_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("TargetDatabase.name", r#""main""#),
    ("RestoreFromTarget.name", r#""main""#),
    (
        "DatabaseElsewhere.place",
        r#""https://s3.example.org/backup/stoa""#,
    ),
    ("App.id", r#""app_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("App.name", r#""shop""#),
    ("App.serving", r#""v3""#),
    ("DatabaseBase.number", "3"),
    ("PromoteDatabase.name", r#""main-before""#),
    ("Database.paused_by", r#""op_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("ImageSource.at", r#""/opt/tool""#),
    ("ImageSource.over", r#""debian:12""#),
    ("UpgradeDatabase.max_pause_s", "60"),
    ("UpgradeDatabase.version", r#""18""#),
    ("DatabaseEngine.version", r#""18""#),
    ("DatabaseRestored.upgraded_from", r#""17""#),
    ("DatabaseOrigin.version", r#""18""#),
    ("CreateBranch.version", r#""18""#),
    ("DatabasePromoted.was", r#""main-before""#),
    ("DatabaseReplaced.was", r#""main""#),
    ("DatabaseRestored.target", r#""2026-03-14T15:09:26.535Z""#),
    ("Database.id", r#""db_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Database.name", r#""main""#),
    ("Database.state", r#""active""#),
    ("Database.version", r#""17""#),
    ("Database.volume", r#""main-20260314""#),
    ("CreateBranch.name", r#""preview-x""#),
    (
        "CreateBranch.mask",
        r#""UPDATE users SET email = id || '@example.org';""#,
    ),
    ("CreateRestore.name", r#""main-before""#),
    ("CreateDatabase.name", r#""main""#),
    ("CreateDatabase.version", r#""17""#),
    ("CreateDatabase.pooled", "true"),
    ("UpdateDatabase.pooled", "true"),
    ("CreateEnvironment.name", r#""staging""#),
    ("CreateImage.name", r#""debian:12""#),
    ("CreateImage.org", r#""acme""#),
    ("CreateToken.name", r#""ci""#),
    (
        "DatabaseBackupLevel.why",
        r#""its receiver has not caught up yet""#,
    ),
    ("DatabasePooler.state", r#""ready""#),
    ("DatabasePooler.host", r#""pool.main.db.internal""#),
    ("DatabasePooler.version", r#""1.24.1""#),
    (
        "DatabasePooler.why",
        r#""the image pgbouncer:1 is no PgBouncer that can be used""#,
    ),
    ("DatabasePooler.sessions", "15"),
    ("DatabaseBackups.unreceived_bytes", "4096"),
    ("DatabaseProtection.state", r#""unprotected""#),
    ("DatabaseProtection.why", r#""no drill yet""#),
    ("Drill.bytes", "48128000"),
    ("Drill.failed_check", r#""manifest""#),
    ("Drill.id", r#""dri_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Drill.base", "3"),
    ("Drill.lsn", r#""0/5000060""#),
    ("Drill.place", r#""the directory /mnt/backup""#),
    ("Drill.operation", r#""op_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Drill.rows", "184211"),
    ("Drill.state", r#""failed""#),
    ("Drill.tables", "71"),
    (
        "Drill.why",
        r#""the storage pool has 900Mi free, and a drill needs 1100Mi""#,
    ),
    ("DrillCheck.check", r#""manifest""#),
    ("DrillCheck.result", r#""failed""#),
    ("DrillCheck.said", r#""base/16384/16402 has another content""#),
    ("DatabaseActivity.count", "7"),
    ("DatabaseActivity.max", "25"),
    ("DatabaseSession.address", r#""10.91.0.7""#),
    ("DatabaseSession.application", r#""psql""#),
    ("DatabaseSession.blocked_by", "[4211]"),
    ("DatabaseSession.database", r#""app""#),
    ("DatabaseSession.pid", "4217"),
    (
        "DatabaseSession.query",
        r#""UPDATE orders SET state = 'paid' WHERE id = 7""#,
    ),
    ("DatabaseSession.state", r#""active""#),
    ("DatabaseSession.state_ms", "1540"),
    ("DatabaseSession.transaction_ms", "2310"),
    ("DatabaseSession.user", r#""app_1""#),
    ("DatabaseSession.wait", r#""Lock: transactionid""#),
    ("DatabaseStatement.blocks_hit", "88412"),
    ("DatabaseStatement.blocks_read", "1204"),
    ("DatabaseStatement.calls", "4211"),
    ("DatabaseStatement.database", r#""app""#),
    ("DatabaseStatement.max_us", "9120"),
    ("DatabaseStatement.mean_us", "431"),
    (
        "DatabaseStatement.query",
        r#""UPDATE orders SET state = $1 WHERE id = $2""#,
    ),
    ("DatabaseStatement.rows", "4211"),
    ("DatabaseStatement.total_us", "1814941"),
    ("DatabaseStatement.user", r#""app_owner""#),
    ("DatabaseSetting.default", r#""128MB""#),
    ("DatabaseSetting.name", r#""shared_buffers""#),
    ("DatabaseSetting.pending_restart", "false"),
    ("DatabaseSetting.value", r#""64MB""#),
    ("DatabaseSettingSource.database", r#""app""#),
    ("DatabaseSettingSource.file", r#""postgresql.auto.conf""#),
    ("DatabaseSettingSource.role", r#""app_1""#),
    ("DryRun.status", "201"),
    ("DryRunChange.change", r#""insert""#),
    ("DryRunChange.id", r#""app_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("DryRunChange.kind", r#""app""#),
    ("Environment.id", r#""env_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Environment.name", r#""production""#),
    ("Event.change", r#""update""#),
    ("Event.id", r#""app_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Event.kind", r#""app""#),
    ("Failure.code", r#""release_rejected""#),
    (
        "Failure.message",
        r#""v8 rejected: 3 of 3 health checks failed (connection refused on :8080). v7 still serves.""#,
    ),
    ("Failure.next_step", r#""stoa logs --release v8""#),
    ("FieldError.message", r#""must be a whole number from 1 to 500""#),
    ("Frame.id", r#""4711""#),
    ("Health.status", r#""ok""#),
    ("ImageDetail.command", r#"["/bin/bash"]"#),
    ("ImageDetail.env", r#"{"PATH": "/usr/bin:/bin"}"#),
    ("Instance.id", r#""ins_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Instance.name", r#""web""#),
    (
        "Instance.why",
        r#""3 of 3 health checks failed: connection refused on :8080""#,
    ),
    ("MasterKey.current", r#""3f9c1b2a4d5e6f70""#),
    ("MasterKey.older", r#"["0a1b2c3d4e5f6071"]"#),
    ("Operation.id", r#""op_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Operation.outcome", r#""v3 serves at http://shop.localhost/""#),
    ("Operation.release", r#""rel_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Org.id", r#""org_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Org.name", r#""default""#),
    ("PatchEnv.set", r#"{"LOG_LEVEL": "info"}"#),
    ("PatchSecrets.set", r#"{"STRIPE_KEY": "sk_live_51H"}"#),
    ("PatchSecrets.unset", r#"["OLD_KEY"]"#),
    ("Problem.code", r#""not_found""#),
    ("Problem.status", "404"),
    ("Project.id", r#""prj_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Project.name", r#""default""#),
    ("Release.id", r#""rel_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    (
        "Release.image",
        r#""sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef""#,
    ),
    ("Release.name", r#""v3""#),
    ("Release.secrets", r#"{"STRIPE_KEY": 2}"#),
    ("Release.state", r#""proven""#),
    ("Release.why", r#""it never got ready""#),
    ("ReleasePlan.release", r#""v4""#),
    ("ReleasePlan.serving", r#""v3""#),
    ("ReleasePlanChange.change", r#""changed""#),
    ("ReleasePlanChange.name", r#""web""#),
    ("ReleaseService.secrets", r#"["STRIPE_KEY"]"#),
    ("PutScale.services", r#"{"web": 3}"#),
    ("Secret.version", "2"),
    ("Server.version", r#""0.1.0""#),
    ("ServiceStatus.name", r#""web""#),
    ("ServiceStatus.ready", "3"),
    ("Token.id", r#""tok_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Token.name", r#""ci""#),
    ("Claim.token", r#""stoa_claim_0f1e2d3c4b5a""#),
    ("Upload.id", r#""upl_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Volume.name", r#""db-01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Volume.database", r#""main""#),
    ("Node.name", r#""server-1""#),
    ("Node.state", r#""ready""#),
    ("Node.instances", "12"),
    ("Rollout.from", r#""v2""#),
    ("Rollout.to", r#""v3""#),
    ("RolloutService.name", r#""web""#),
    ("AuditRow.outcome", r#""committed""#),
    (
        "AuditVerification.why",
        r#""its link does not follow from the row before""#,
    ),
    ("LogLine.source", r#""web""#),
    ("Grant.org", r#""org_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Grant.project", r#""prj_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("CreateInvitation.project", r#""default""#),
    ("Invitation.id", r#""inv_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    (
        "Invitation.invited_by",
        r#""user:usr_01k2f3v9q0e4tb6mzy8rwx5c7d""#,
    ),
    ("Invitation.org", r#""org_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Invitation.project", r#""prj_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("AcceptInvitation.name", r#""Ada Lovelace""#),
    ("AcceptInvitation.token", r#""stoa_inv_0f1e2d3c4b5a""#),
    ("IssuedInvitation.token", r#""stoa_inv_0f1e2d3c4b5a""#),
    ("Claim.name", r#""Ada Lovelace""#),
    ("CreateOrg.name", r#""acme""#),
    ("CreateProject.name", r#""web""#),
    ("CreateDeployToken.name", r#""ci""#),
    ("Rename.name", r#""acme""#),
    ("Member.name", r#""Ada Lovelace""#),
    ("Member.user", r#""usr_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("PutPassword.current", r#""correct horse battery""#),
    ("PutPassword.new", r#""another horse entirely""#),
    ("Session.agent", r#""Mozilla/5.0 (X11; Linux x86_64)""#),
    ("Session.id", r#""ses_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Session.source", r#""192.0.2.7""#),
    ("Token.project", r#""prj_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Token.user", r#""usr_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("User.id", r#""usr_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("User.name", r#""Ada Lovelace""#),
    ("IdentityProvider.id", r#""idp_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("IdentityProvider.name", r#""company""#),
    ("IdentityProvider.issuer", r#""https://id.example.org""#),
    ("PutIdentityProvider.issuer", r#""https://id.example.org""#),
    ("client_id", r#""stoa""#),
    ("client_secret", r#""s3cr3t-of-the-client""#),
    ("has_secret", "true"),
    (
        "redirect",
        r#""https://stoa.example.org/v1/oidc/company/callback""#,
    ),
    ("PutIdentityProvider.origin", r#""https://stoa.example.org""#),
    ("Identity.id", r#""idn_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("Identity.provider", r#""company""#),
    ("Identity.subject", r#""248289761001""#),
    ("FetchSession.code", r#""0f1e2d3c4b5a69788796a5b4c3d2e1f0""#),
    ("LinkIdentity.code", r#""0f1e2d3c4b5a69788796a5b4c3d2e1f0""#),
    ("verifier", r#""dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk""#),
    ("CreateDevice.name", r#""login on laptop""#),
    ("DeviceRequest.name", r#""login on laptop""#),
    ("DeviceRequest.source", r#""192.0.2.7""#),
    ("device_code", r#""stoa_dev_0f1e2d3c4b5a""#),
    ("user_code", r#""BCDF-GHJK""#),
    ("expires_in_s", "600"),
    ("interval_s", "5"),
    ("email", r#""ada@example.org""#),
    ("password", r#""correct horse battery""#),
    ("answered_by_edge", "0"),
    ("client_errors", "12"),
    ("cpu_us", "5400000"),
    ("cut", "0"),
    ("disk_available_bytes", "84000000000"),
    ("disk_bytes", "250000000000"),
    ("informational", "0"),
    ("kernel", r#""6.1.0""#),
    ("memory_available_bytes", "6442450944"),
    ("new_ready", "1"),
    ("new_unready", "1"),
    ("old", "2"),
    ("processes", "9"),
    ("processors", "2"),
    ("reason", r#""waiting for 2 of 3 instances""#),
    ("redirected", "40"),
    ("retries", "1"),
    ("server_errors", "0"),
    ("service", r#""web""#),
    ("steps_began_at", r#"["2026-03-14T15:09:26.535Z"]"#),
    ("succeeded", "98765"),
    ("access_key", r#""AKIAIOSFODNN7EXAMPLE""#),
    (
        "backup_key",
        r#""stoa-backup-key:0707070707070707070707070707070707070707070707070707070707070707:04dea595""#,
    ),
    ("backup_server", r#""0f1e2d3c4b5a69788796a5b4c3d2e1f0""#),
    ("bucket", r#""backup""#),
    ("endpoint", r#""https://s3.example.org""#),
    ("key_fingerprint", r#""428ef498cd619056""#),
    ("problems", r#"[]"#),
    ("region", r#""us-east-1""#),
    ("secret_key", r#""wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY""#),
    (
        "upload_error",
        r#""https://s3.example.org/backup/: connection refused""#,
    ),
    ("waiting_bytes", "16777216"),
    ("was_in", r#""default/default/production""#),
    ("action", r#""app.create""#),
    ("actor", r#""token:tok_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("address", r#""10.77.0.5""#),
    ("attempt", "0"),
    ("branches", r#"["preview-x"]"#),
    ("bytes", "28311552"),
    ("capabilities", r#"{"pool": "reflink", "engine": "host"}"#),
    ("columns", "80"),
    ("command", r#"["bin/shop", "serve"]"#),
    ("completes", "41"),
    ("condition", r#""ready""#),
    ("count", "2"),
    ("cpu_millis", "500"),
    ("credential_version", "1"),
    ("data", r#""{\"revision\": 4711}""#),
    ("data_dir", r#""/var/lib/stoa""#),
    ("database", r#""main""#),
    ("decision", r#""allowed""#),
    ("detail", r#""there is no app \"shop\"""#),
    (
        "digest",
        r#""sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef""#,
    ),
    ("domain", r#""localhost""#),
    ("env", r#"{"LOG_LEVEL": "info"}"#),
    ("event", r#""event""#),
    ("exit_code", "0"),
    ("first_bad", "17"),
    ("from_lsn", r#""0/3000060""#),
    ("generation", "7"),
    (
        "hash",
        r#""9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08""#,
    ),
    ("health_path", r#""/healthz""#),
    ("host", r#""main.db.internal""#),
    ("image", r#""debian:12""#),
    ("index", "0"),
    ("instance", r#""ins_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("keep_s", "604800"),
    ("key", r#""STRIPE_KEY""#),
    ("labels", r#"{"org.opencontainers.image.version": "12"}"#),
    ("lifetime_s", "7776000"),
    ("listeners", r#"{"api": "127.0.0.1:7070"}"#),
    ("log_tail", r#"["listen: address already in use"]"#),
    ("lsn", r#""0/3000060""#),
    (
        "manifest",
        r#""schema = 1\napp = \"shop\"\n\n[services.web]\nport = 8080\n""#,
    ),
    ("memory_bytes", "268435456"),
    ("name", r#""shop""#),
    ("names", r#"["debian:12"]"#),
    ("next_page", r#""100.shop~0f1e2d3c4b5a69788796a5b4c3d2e1f0""#),
    ("next_step", r#""see what is there: stoa status""#),
    ("note", r#""from a directory""#),
    ("number", "42"),
    ("object", r#""shop""#),
    ("obstacles", r#"["the secret STRIPE_KEY is not set"]"#),
    ("operation", r#""op_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("org", r#""default""#),
    ("packages", r#"["ca-certificates"]"#),
    ("parent", r#""env_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("pointer", r#""?limit""#),
    ("port", "8080"),
    ("ports", "[8080]"),
    ("position", "2048"),
    ("purpose", r#""service""#),
    ("records", "1042"),
    ("reference", r#""registry.example.org/mailer:4.2""#),
    ("release", r#""v3""#),
    ("request_id", r#""req_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("revision", "4711"),
    ("rollout", r#""op_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("rows", "24"),
    ("settings", r#"["command"]"#),
    (
        "sha256",
        r#""9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08""#,
    ),
    ("size_bytes", "10737418240"),
    (
        "damage",
        r#""app app_01k2f3v9q0e4tb6mzy8rwx5c7d is corrupt: it is not what was written""#,
    ),
    ("used_bytes", "48128000"),
    ("storage_full", r#""budget""#),
    ("keys", r#"["STRIPE_KEY"]"#),
    ("step", r#""waiting for 2 of 3 instances""#),
    (
        "steps",
        r#"["start 2 instances of web", "switch the routes", "drain the old instances"]"#,
    ),
    ("strategy", r#""rolling""#),
    ("stream", r#""stdout""#),
    ("took_ms", "312"),
    ("rto_ms", "1840"),
    ("expected_lsn", r#""0/5000060""#),
    ("suite", r#""bookworm""#),
    ("target", r#""app_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("text", r#""GET / 200""#),
    ("title", r#""Not Found""#),
    ("to", r#""v2""#),
    (
        "token",
        r#""stoa_pat_0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0""#,
    ),
    ("token_name", r#""ci""#),
    ("ttl_s", "604800"),
    ("idle_stop_s", "300"),
    ("instead_of", r#""db_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("by", r#""db_01k2f3v9q0e4tb6mzy8rwx5c7e""#),
    ("type", r#""urn:stoa:error:not_found""#),
    ("unknown", r#"["what the build makes of it"]"#),
    ("unset", r#"["DEBUG"]"#),
    ("upload", r#""upl_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("urls", r#"["http://shop.localhost/"]"#),
    ("used_by", r#"["shop"]"#),
    ("user", r#""1000:1000""#),
    ("uses", r#"["main"]"#),
    ("value", r#""sk_live_51H""#),
    (
        "variables",
        r#"{"DATABASE_URL": "postgresql://app_1:SECRET@main.db.internal:5432/app"}"#,
    ),
    ("until_lsn", r#""0/5000060""#),
    ("wal_bytes", "67108864"),
    ("wanted", "3"),
    ("what", r#""service""#),
    ("why", r#""the image has no PostgreSQL""#),
    ("work", r#""deploy""#),
    ("workdir", r#""/app""#),
];

/// The same for parameters of paths, queries and headers.
const PARAMETERS: &[(&str, &str)] = &[
    ("Idempotency-Key", r#""deploy-2f1c""#),
    ("app", r#""shop""#),
    ("challenge", r#""E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM""#),
    ("code", r#""BCDF-GHJK""#),
    ("condition", r#""ready""#),
    ("kind", r#""app""#),
    ("name", r#""shop""#),
    ("node", r#""server-1""#),
    ("state", r#""running""#),
    ("volume", r#""db-01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("work", r#""deploy""#),
    ("check", "true"),
    ("database", r#""main""#),
    ("drill", r#""dri_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("dry_run", "true"),
    ("environment", r#""production""#),
    ("follow", "true"),
    ("grep", r#""timeout""#),
    ("image", r#""debian:12""#),
    ("instance", r#""ins_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("identity", r#""idn_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("invitation", r#""inv_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("iss", r#""https://id.example.org""#),
    ("key", r#""STRIPE_KEY""#),
    ("limit", "100"),
    ("operation", r#""op_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("org", r#""default""#),
    ("page_token", r#""100.shop~0f1e2d3c4b5a69788796a5b4c3d2e1f0""#),
    ("port", "43210"),
    ("project", r#""default""#),
    ("provider", r#""company""#),
    ("release", r#""v3""#),
    ("service", r#""web""#),
    ("session", r#""current""#),
    ("since", "4711"),
    ("state", r#""9f86d081884c7d659a2feaa0c55ad015""#),
    ("tail", "200"),
    ("token", r#""tok_01k2f3v9q0e4tb6mzy8rwx5c7d""#),
    ("user", r#""ada@example.org""#),
    ("user_code", r#""BCDF-GHJK""#),
    ("wait", r#""30s""#),
];

const MOMENT: &str = "2026-03-14T15:09:26.535Z";

/// The example of a parameter.
pub(crate) fn of_parameter(name: &str, schema: &Value) -> Option<Value> {
    let value = listed(PARAMETERS, name)?;
    // One name, two forms: a number in one place, a text that may hold one in another.
    match (&value, schema["type"].as_str()) {
        (Value::Number(number), Some("string")) => Some(json!(number.to_string())),
        _ => Some(value),
    }
}

/// Gives each field of a schema its example, where it has none.
pub(crate) fn add(name: &str, schema: &mut Value) {
    let variants = match schema["oneOf"].is_array() {
        true => schema["oneOf"].as_array_mut(),
        false => None,
    };
    if let Some(variants) = variants {
        return variants.iter_mut().for_each(|variant| add(name, variant));
    }
    let fields = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (field, about) in fields.into_iter().flatten() {
        if let (Some(example), Some(about)) = (of_field(name, field, about), about.as_object_mut()) {
            about.entry("examples").or_insert_with(|| json!([example]));
        }
    }
}

fn of_field(schema: &str, field: &str, about: &Value) -> Option<Value> {
    if is_composed(about) {
        return None;
    }
    if let Some(first) = about["enum"].get(0) {
        return Some(first.clone());
    }
    if about["format"] == "date-time" {
        return Some(json!(MOMENT));
    }
    if about["type"] == "boolean" {
        return Some(json!(false));
    }
    listed(FIELDS, &format!("{schema}.{field}")).or_else(|| listed(FIELDS, field))
}

fn listed(table: &[(&str, &str)], name: &str) -> Option<Value> {
    let (_, text) = table.iter().find(|(known, _)| *known == name)?;
    serde_json::from_str(text).ok()
}

/// Whether its example follows from the schemas it is made of.
fn is_composed(about: &Value) -> bool {
    let inner = [about, &about["items"], &about["additionalProperties"]];
    inner
        .iter()
        .any(|schema| schema["$ref"].is_string() || schema["oneOf"].is_array())
}

/// A whole value of a named schema, out of the examples of its fields.
#[must_use]
pub fn whole(schemas: &Value, name: &str) -> Value {
    value(schemas, &schemas[name])
}

fn value(schemas: &Value, schema: &Value) -> Value {
    if let Some(example) = schema["examples"].get(0) {
        return example.clone();
    }
    if let Some(target) = schema["$ref"].as_str() {
        return whole(schemas, target.rsplit('/').next().unwrap_or_default());
    }
    if let Some(variants) = schema["oneOf"].as_array() {
        let known = variants.iter().find(|variant| variant["type"] != "null");
        return known.map_or(Value::Null, |variant| value(schemas, variant));
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    if let Some(fields) = schema["properties"].as_object() {
        let all = fields
            .iter()
            .map(|(field, about)| (field.clone(), value(schemas, about)));
        return Value::Object(all.collect::<Map<_, _>>());
    }
    if schema["items"].is_object() {
        return json!([value(schemas, &schema["items"])]);
    }
    if schema["additionalProperties"].is_object() {
        return json!({"web": value(schemas, &schema["additionalProperties"])});
    }
    Value::Null
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::document;
    use crate::{Body, endpoints, validate};

    #[test]
    fn every_field_and_parameter_has_an_example() {
        for (name, schema) in document()["components"]["schemas"].as_object().expect("schemas") {
            let variants = schema["oneOf"].as_array();
            for schema in variants.map_or_else(|| vec![schema], |v| v.iter().collect()) {
                for (field, about) in schema["properties"].as_object().into_iter().flatten() {
                    let has = is_composed(about) || about["examples"].get(0).is_some();
                    assert!(
                        has,
                        "{name}.{field} has no example: give it one in crates/api/src/examples.rs"
                    );
                }
            }
        }
        for operations in document()["paths"].as_object().expect("paths").values() {
            for operation in operations.as_object().expect("operations").values() {
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let (id, name) = (&operation["operationId"], &parameter["name"]);
                    assert!(
                        !parameter["example"].is_null(),
                        "{id} {name} has no example: give it one in crates/api/src/examples.rs"
                    );
                    assert!(parameter["description"].as_str().is_some_and(|d| !d.is_empty()));
                }
            }
        }
    }

    /// Whole requests made of the examples are requests that the server takes.
    #[test]
    fn examples_fit() {
        let schemas = &document()["components"]["schemas"];
        for endpoint in endpoints::ALL {
            if let Body::Json(shape) | Body::OptionalJson(shape) | Body::Form(shape) = endpoint.body {
                let mut body = whole(schemas, &(shape.name)());
                let errors = validate::body(endpoint, &mut body);
                assert!(errors.is_empty(), "{}: {body}: {errors:?}", endpoint.id);
            }
        }
    }

    #[test]
    fn no_example_is_left_over() {
        let text = document().to_string();
        for (name, value) in FIELDS.iter().chain(PARAMETERS) {
            let field = name.rsplit('.').next().unwrap_or_default();
            assert!(text.contains(&format!("\"{field}\"")), "nothing is called {name}");
            assert!(serde_json::from_str::<Value>(value).is_ok(), "{name}: {value}");
        }
    }
}
