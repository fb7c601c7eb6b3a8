//! The calls by name: one line each, so that a change of the contract is a compile error here.

use std::fs::File;

use api::endpoints as e;
use api::{
    AcceptInvitation, App, AppEnv, AppMetrics, AppPage, AuditPage, AuditRow, AuditVerification, BackupTarget,
    CheckBackupKey, Claim, CreateApp, CreateBranch, CreateDatabase, CreateDeployToken, CreateDevice,
    CreateDrill, CreateEnvironment, CreateImage, CreateInvitation, CreateOrg, CreateProject, CreateRelease,
    CreateRestore, CreateSession, CreateToken, CreateUserInvitation, Database, DatabaseActivity,
    DatabaseBackups, DatabaseCredentials, DatabaseEngine, DatabaseEnginePage, DatabasePage, DatabaseSettings,
    DatabaseStatements, Device, DeviceRequest, Drill, DrillPage, DryRun, Environment, EnvironmentPage, Exec,
    FetchSession, Identity, IdentityPage, IdentityProvider, IdentityProviderPage, Image, ImageDetail,
    ImagePage, Instance, InstancePage, Invitation, InvitationPage, IssuedInvitation, IssuedToken,
    LinkIdentity, LogPage, MasterKey, Member, MemberPage, Operation, OperationLog, OperationPage, Org,
    OrgPage, PatchEnv, PatchSecrets, PollDevice, Project, ProjectPage, PromoteDatabase, PutBackupTarget,
    PutIdentityProvider, PutPassword, PutRole, PutScale, PutSecret, Release, ReleasePage, ReleasePlan,
    Rename, RestoreFromTarget, Role, Rollback, Run, Secret, SecretChange, SecretPage, SecretsChange, Server,
    SessionPage, SetBackupTarget, SignedIn, TargetDatabase, TargetDatabasePage, Token, TokenPage,
    UpdateDatabase, UpgradeDatabase, Upload, User, UserPage, Whoami,
};

use crate::error::Error;
use crate::exec::Session;
use crate::stream::Events;
use crate::wire::Client;

const NONE: Option<&()> = None;

/// An environment by the names that lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Org.
    pub org: String,
    /// Project.
    pub project: String,
    /// Environment.
    pub environment: String,
}

impl Place {
    fn with<'p, const N: usize>(&'p self, rest: [&'p str; N]) -> Vec<&'p str> {
        let mut path = vec![self.org.as_str(), &self.project, &self.environment];
        path.extend(rest);
        path
    }
}

/// Each function is the endpoint of its name.
#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "each is documented at its endpoint"
)]
impl Client {
    pub fn claim(&self, body: &Claim) -> Result<IssuedToken, Error> {
        self.call(&e::CLAIM, &[], &[], Some(body))
    }
    pub fn session_create(&self, body: &CreateSession) -> Result<(SignedIn, String), Error> {
        self.begin_session(&e::SESSION_CREATE, body)
    }
    pub fn sessions(&self) -> Result<Vec<api::Session>, Error> {
        self.all::<SessionPage>(&e::SESSION_LIST, &[])
    }
    pub fn session_delete(&self, session: &str) -> Result<(), Error> {
        self.call_empty(&e::SESSION_DELETE, &[session])
    }
    pub fn password_put(&self, body: &PutPassword) -> Result<(), Error> {
        self.send_empty(&e::PASSWORD_PUT, &[], body)
    }
    /// Only asks whether a browser can be sent there.
    pub fn oidc_check(&self, provider: &str) -> Result<(), Error> {
        let query = [("check", "true")];
        self.answer(&e::OIDC_BEGIN, &[provider], &query, None::<&()>)
            .map(drop)
    }
    pub fn oidc_session_create(&self, body: &FetchSession) -> Result<(SignedIn, String), Error> {
        self.begin_session(&e::OIDC_SESSION_CREATE, body)
    }
    pub fn identity_providers(&self) -> Result<Vec<IdentityProvider>, Error> {
        self.all::<IdentityProviderPage>(&e::PROVIDER_LIST, &[])
    }
    pub fn identity_provider(&self, provider: &str) -> Result<IdentityProvider, Error> {
        self.call(&e::PROVIDER_VIEW, &[provider], &[], NONE)
    }
    pub fn identity_provider_put(
        &self,
        provider: &str,
        body: &PutIdentityProvider,
    ) -> Result<IdentityProvider, Error> {
        self.call(&e::PROVIDER_PUT, &[provider], &[], Some(body))
    }
    pub fn identity_provider_delete(&self, provider: &str) -> Result<(), Error> {
        self.call_empty(&e::PROVIDER_DELETE, &[provider])
    }
    pub fn identities(&self) -> Result<Vec<Identity>, Error> {
        self.all::<IdentityPage>(&e::IDENTITY_LIST, &[])
    }
    pub fn identity_create(&self, body: &LinkIdentity) -> Result<Identity, Error> {
        self.call(&e::IDENTITY_CREATE, &[], &[], Some(body))
    }
    pub fn identity_delete(&self, identity: &str) -> Result<(), Error> {
        self.call_empty(&e::IDENTITY_DELETE, &[identity])
    }
    pub fn users(&self) -> Result<Vec<User>, Error> {
        self.all::<UserPage>(&e::USER_LIST, &[])
    }
    pub fn user(&self, user: &str) -> Result<User, Error> {
        self.call(&e::USER_VIEW, &[user], &[], NONE)
    }
    pub fn user_delete(&self, user: &str) -> Result<(), Error> {
        self.call_empty(&e::USER_DELETE, &[user])
    }
    pub fn user_role_put(&self, user: &str, role: Role) -> Result<User, Error> {
        self.call(&e::USER_ROLE_PUT, &[user], &[], Some(&PutRole { role }))
    }
    pub fn user_role_delete(&self, user: &str) -> Result<User, Error> {
        self.call(&e::USER_ROLE_DELETE, &[user], &[], NONE)
    }
    pub fn user_reset(&self, user: &str) -> Result<IssuedInvitation, Error> {
        self.call(&e::USER_RESET, &[user], &[], NONE)
    }
    pub fn invite(&self, org: &str, body: &CreateInvitation) -> Result<IssuedInvitation, Error> {
        self.call(&e::INVITATION_CREATE, &[org], &[], Some(body))
    }
    pub fn user_invite(&self, body: &CreateUserInvitation) -> Result<IssuedInvitation, Error> {
        self.call(&e::USER_INVITATION_CREATE, &[], &[], Some(body))
    }
    pub fn invitations(&self, org: Option<&str>) -> Result<Vec<Invitation>, Error> {
        match org {
            Some(org) => self.all::<InvitationPage>(&e::INVITATION_LIST, &[org]),
            None => self.all::<InvitationPage>(&e::USER_INVITATION_LIST, &[]),
        }
    }
    pub fn invitation_delete(&self, org: Option<&str>, invitation: &str) -> Result<(), Error> {
        match org {
            Some(org) => self.call_empty(&e::INVITATION_DELETE, &[org, invitation]),
            None => self.call_empty(&e::USER_INVITATION_DELETE, &[invitation]),
        }
    }
    pub fn invitation_accept(&self, body: &AcceptInvitation) -> Result<(SignedIn, String), Error> {
        self.begin_session(&e::INVITATION_ACCEPT, body)
    }
    /// Of an org, or of a project in it.
    pub fn members(&self, org: &str, project: Option<&str>) -> Result<Vec<Member>, Error> {
        match project {
            Some(project) => self.all::<MemberPage>(&e::PROJECT_MEMBER_LIST, &[org, project]),
            None => self.all::<MemberPage>(&e::MEMBER_LIST, &[org]),
        }
    }
    pub fn member_put(
        &self,
        org: &str,
        project: Option<&str>,
        user: &str,
        role: Role,
    ) -> Result<Member, Error> {
        let body = Some(&PutRole { role });
        match project {
            Some(project) => self.call(&e::PROJECT_MEMBER_PUT, &[org, project, user], &[], body),
            None => self.call(&e::MEMBER_PUT, &[org, user], &[], body),
        }
    }
    pub fn member_delete(&self, org: &str, project: Option<&str>, user: &str) -> Result<(), Error> {
        match project {
            Some(project) => self.call_empty(&e::PROJECT_MEMBER_DELETE, &[org, project, user]),
            None => self.call_empty(&e::MEMBER_DELETE, &[org, user]),
        }
    }
    pub fn deploy_tokens(&self, org: &str, project: &str) -> Result<Vec<Token>, Error> {
        self.all::<TokenPage>(&e::DEPLOY_TOKEN_LIST, &[org, project])
    }
    pub fn deploy_token_create(
        &self,
        org: &str,
        project: &str,
        body: &CreateDeployToken,
    ) -> Result<IssuedToken, Error> {
        self.call(&e::DEPLOY_TOKEN_CREATE, &[org, project], &[], Some(body))
    }
    pub fn deploy_token_delete(&self, org: &str, project: &str, token: &str) -> Result<(), Error> {
        self.call_empty(&e::DEPLOY_TOKEN_DELETE, &[org, project, token])
    }
    pub fn whoami(&self) -> Result<Whoami, Error> {
        self.call(&e::WHOAMI, &[], &[], NONE)
    }
    pub fn device_create(&self, body: &CreateDevice) -> Result<Device, Error> {
        self.call(&e::DEVICE_CREATE, &[], &[], Some(body))
    }
    pub fn device_token(&self, body: &PollDevice) -> Result<IssuedToken, Error> {
        self.call(&e::DEVICE_TOKEN, &[], &[], Some(body))
    }
    pub fn device(&self, code: &str) -> Result<DeviceRequest, Error> {
        self.call(&e::DEVICE_VIEW, &[code], &[], NONE)
    }
    pub fn device_approve(&self, code: &str) -> Result<(), Error> {
        self.call_empty(&e::DEVICE_APPROVE, &[code])
    }
    pub fn device_deny(&self, code: &str) -> Result<(), Error> {
        self.call_empty(&e::DEVICE_DENY, &[code])
    }
    pub fn tokens(&self) -> Result<Vec<Token>, Error> {
        self.all::<TokenPage>(&e::TOKEN_LIST, &[])
    }
    pub fn token_create(&self, body: &CreateToken) -> Result<IssuedToken, Error> {
        self.call(&e::TOKEN_CREATE, &[], &[], Some(body))
    }
    pub fn token_delete(&self, token: &str) -> Result<(), Error> {
        self.call_empty(&e::TOKEN_DELETE, &[token])
    }
    pub fn audit(&self) -> Result<Vec<AuditRow>, Error> {
        self.all::<AuditPage>(&e::AUDIT_LIST, &[])
    }
    pub fn audit_page(&self, limit: u16, page_token: &str) -> Result<AuditPage, Error> {
        let limit = limit.to_string();
        let mut query = vec![("limit", limit.as_str())];
        if !page_token.is_empty() {
            query.push(("page_token", page_token));
        }
        self.call(&e::AUDIT_LIST, &[], &query, NONE)
    }
    pub fn audit_verify(&self) -> Result<AuditVerification, Error> {
        self.call(&e::AUDIT_VERIFY, &[], &[], NONE)
    }

    pub fn orgs(&self) -> Result<Vec<Org>, Error> {
        self.all::<OrgPage>(&e::ORG_LIST, &[])
    }
    pub fn org(&self, org: &str) -> Result<Org, Error> {
        self.call(&e::ORG_VIEW, &[org], &[], NONE)
    }
    pub fn org_create(&self, body: &CreateOrg) -> Result<Org, Error> {
        self.call(&e::ORG_CREATE, &[], &[], Some(body))
    }
    pub fn org_update(&self, org: &str, body: &Rename) -> Result<Org, Error> {
        self.call(&e::ORG_UPDATE, &[org], &[], Some(body))
    }
    pub fn org_delete(&self, org: &str) -> Result<(), Error> {
        self.call_empty(&e::ORG_DELETE, &[org])
    }
    pub fn project_create(&self, org: &str, body: &CreateProject) -> Result<Project, Error> {
        self.call(&e::PROJECT_CREATE, &[org], &[], Some(body))
    }
    pub fn project_update(&self, org: &str, project: &str, body: &Rename) -> Result<Project, Error> {
        self.call(&e::PROJECT_UPDATE, &[org, project], &[], Some(body))
    }
    pub fn project_delete(&self, org: &str, project: &str) -> Result<(), Error> {
        self.call_empty(&e::PROJECT_DELETE, &[org, project])
    }
    pub fn environment_delete(&self, at: &Place) -> Result<(), Error> {
        self.call_empty(&e::ENVIRONMENT_DELETE, &at.with([]))
    }
    pub fn projects(&self, org: &str) -> Result<Vec<Project>, Error> {
        self.all::<ProjectPage>(&e::PROJECT_LIST, &[org])
    }
    pub fn environments(&self, org: &str, project: &str) -> Result<Vec<Environment>, Error> {
        self.all::<EnvironmentPage>(&e::ENVIRONMENT_LIST, &[org, project])
    }
    pub fn environment_create(
        &self,
        org: &str,
        project: &str,
        body: &CreateEnvironment,
    ) -> Result<Environment, Error> {
        self.call(&e::ENVIRONMENT_CREATE, &[org, project], &[], Some(body))
    }

    pub fn upload(&self, at: &Place, media_type: &str, archive: File) -> Result<Upload, Error> {
        self.send_file(&e::UPLOAD_CREATE, &at.with([]), media_type, archive)
    }

    pub fn apps(&self, at: &Place) -> Result<Vec<App>, Error> {
        self.all::<AppPage>(&e::APP_LIST, &at.with([]))
    }
    pub fn app_create(&self, at: &Place, body: &CreateApp) -> Result<App, Error> {
        self.call(&e::APP_CREATE, &at.with([]), &[], Some(body))
    }
    pub fn app(&self, at: &Place, app: &str) -> Result<App, Error> {
        self.call(&e::APP_VIEW, &at.with([app]), &[], NONE)
    }
    pub fn app_delete(&self, at: &Place, app: &str) -> Result<Operation, Error> {
        self.call(&e::APP_DELETE, &at.with([app]), &[], NONE)
    }
    pub fn app_env(&self, at: &Place, app: &str) -> Result<AppEnv, Error> {
        self.call(&e::APP_ENV_VIEW, &at.with([app]), &[], NONE)
    }
    pub fn app_env_update(&self, at: &Place, app: &str, body: &PatchEnv) -> Result<AppEnv, Error> {
        self.call(&e::APP_ENV_UPDATE, &at.with([app]), &[], Some(body))
    }
    pub fn secrets(&self, at: &Place, app: &str) -> Result<Vec<Secret>, Error> {
        self.all::<SecretPage>(&e::SECRET_LIST, &at.with([app]))
    }
    pub fn secret_update(&self, at: &Place, app: &str, body: &PatchSecrets) -> Result<SecretsChange, Error> {
        self.call(&e::SECRET_UPDATE, &at.with([app]), &[], Some(body))
    }
    pub fn secret_put(
        &self,
        at: &Place,
        app: &str,
        key: &str,
        body: &PutSecret,
    ) -> Result<SecretChange, Error> {
        self.call(&e::SECRET_PUT, &at.with([app, key]), &[], Some(body))
    }
    pub fn secret_delete(&self, at: &Place, app: &str, key: &str) -> Result<SecretChange, Error> {
        self.call(&e::SECRET_DELETE, &at.with([app, key]), &[], NONE)
    }
    pub fn app_scale(&self, at: &Place, app: &str, body: &PutScale) -> Result<Operation, Error> {
        self.call(&e::APP_SCALE, &at.with([app]), &[], Some(body))
    }
    pub fn app_restart(&self, at: &Place, app: &str) -> Result<Operation, Error> {
        self.call(&e::APP_RESTART, &at.with([app]), &[], NONE)
    }
    pub fn app_run(&self, at: &Place, app: &str, body: &Run) -> Result<Operation, Error> {
        self.call(&e::APP_RUN, &at.with([app]), &[], Some(body))
    }
    pub fn instances(&self, at: &Place, app: &str) -> Result<Vec<Instance>, Error> {
        self.all::<InstancePage>(&e::INSTANCE_LIST, &at.with([app]))
    }
    pub fn instance_exec(
        &self,
        at: &Place,
        app: &str,
        instance: &str,
        body: &Exec,
    ) -> Result<Session<'_>, Error> {
        self.exec(&e::INSTANCE_EXEC, &at.with([app, instance]), body)
    }
    pub fn app_logs(&self, at: &Place, app: &str, query: &[(&str, &str)]) -> Result<LogPage, Error> {
        self.call(&e::APP_LOGS, &at.with([app]), query, NONE)
    }
    pub fn app_logs_follow(
        &self,
        at: &Place,
        app: &str,
        query: &[(&str, &str)],
    ) -> Result<Events<'_>, Error> {
        self.events(&e::APP_LOGS, &at.with([app]), query)
    }

    pub fn app_metrics(&self, at: &Place, app: &str) -> Result<AppMetrics, Error> {
        self.call(&e::APP_METRICS, &at.with([app]), &[], NONE)
    }
    pub fn releases(&self, at: &Place, app: &str) -> Result<Vec<Release>, Error> {
        self.all::<ReleasePage>(&e::RELEASE_LIST, &at.with([app]))
    }
    pub fn release_create(&self, at: &Place, app: &str, body: &CreateRelease) -> Result<Operation, Error> {
        self.call(&e::RELEASE_CREATE, &at.with([app]), &[], Some(body))
    }
    pub fn release_plan(&self, at: &Place, app: &str, body: &CreateRelease) -> Result<ReleasePlan, Error> {
        self.call(
            &e::RELEASE_CREATE,
            &at.with([app]),
            &[("dry_run", "true")],
            Some(body),
        )
    }
    pub fn release(&self, at: &Place, app: &str, release: &str) -> Result<Release, Error> {
        self.call(&e::RELEASE_VIEW, &at.with([app, release]), &[], NONE)
    }
    pub fn app_rollback(&self, at: &Place, app: &str, body: &Rollback) -> Result<Operation, Error> {
        self.call(&e::APP_ROLLBACK, &at.with([app]), &[], Some(body))
    }

    pub fn databases(&self, at: &Place) -> Result<Vec<Database>, Error> {
        self.all::<DatabasePage>(&e::DATABASE_LIST, &at.with([]))
    }
    pub fn database_create(&self, at: &Place, body: &CreateDatabase) -> Result<Operation, Error> {
        self.call(&e::DATABASE_CREATE, &at.with([]), &[], Some(body))
    }
    pub fn database(&self, at: &Place, database: &str) -> Result<Database, Error> {
        self.call(&e::DATABASE_VIEW, &at.with([database]), &[], NONE)
    }
    pub fn database_delete(&self, at: &Place, database: &str) -> Result<Operation, Error> {
        self.call(&e::DATABASE_DELETE, &at.with([database]), &[], NONE)
    }
    pub fn database_rotate(&self, at: &Place, database: &str) -> Result<Operation, Error> {
        self.call(&e::DATABASE_ROTATE, &at.with([database]), &[], NONE)
    }
    pub fn database_restart(&self, at: &Place, database: &str) -> Result<Operation, Error> {
        self.call(&e::DATABASE_RESTART, &at.with([database]), &[], NONE)
    }
    pub fn database_branch(
        &self,
        at: &Place,
        database: &str,
        body: &CreateBranch,
    ) -> Result<Operation, Error> {
        self.call(&e::DATABASE_BRANCH, &at.with([database]), &[], Some(body))
    }
    pub fn database_reset(&self, at: &Place, database: &str) -> Result<Operation, Error> {
        self.call(&e::DATABASE_RESET, &at.with([database]), &[], NONE)
    }
    pub fn database_backups(&self, at: &Place, database: &str) -> Result<DatabaseBackups, Error> {
        self.call(&e::DATABASE_BACKUPS_VIEW, &at.with([database]), &[], NONE)
    }
    pub fn database_backup(&self, at: &Place, database: &str) -> Result<Operation, Error> {
        self.call(&e::DATABASE_BACKUP, &at.with([database]), &[], NONE)
    }
    pub fn database_drills(&self, at: &Place, database: &str) -> Result<Vec<Drill>, Error> {
        self.all::<DrillPage>(&e::DATABASE_DRILL_LIST, &at.with([database]))
    }
    pub fn database_drill(&self, at: &Place, database: &str, body: &CreateDrill) -> Result<Operation, Error> {
        self.call(&e::DATABASE_DRILL, &at.with([database]), &[], Some(body))
    }
    pub fn database_drill_view(&self, at: &Place, database: &str, drill: &str) -> Result<Drill, Error> {
        self.call(&e::DATABASE_DRILL_VIEW, &at.with([database, drill]), &[], NONE)
    }
    pub fn database_restore(
        &self,
        at: &Place,
        database: &str,
        body: &CreateRestore,
    ) -> Result<Operation, Error> {
        self.call(&e::DATABASE_RESTORE, &at.with([database]), &[], Some(body))
    }
    pub fn database_update(
        &self,
        at: &Place,
        database: &str,
        body: &UpdateDatabase,
    ) -> Result<Database, Error> {
        self.call(&e::DATABASE_UPDATE, &at.with([database]), &[], Some(body))
    }
    pub fn database_promote(
        &self,
        at: &Place,
        database: &str,
        body: &PromoteDatabase,
    ) -> Result<Operation, Error> {
        self.call(&e::DATABASE_PROMOTE, &at.with([database]), &[], Some(body))
    }
    pub fn database_upgrade(
        &self,
        at: &Place,
        database: &str,
        body: &UpgradeDatabase,
    ) -> Result<Operation, Error> {
        self.call(&e::DATABASE_UPGRADE, &at.with([database]), &[], Some(body))
    }
    pub fn database_engines(&self) -> Result<Vec<DatabaseEngine>, Error> {
        self.all::<DatabaseEnginePage>(&e::DATABASE_ENGINE_LIST, &[])
    }
    pub fn database_restore_from_target(
        &self,
        at: &Place,
        body: &RestoreFromTarget,
    ) -> Result<Operation, Error> {
        self.call(&e::DATABASE_RESTORE_FROM_TARGET, &at.with([]), &[], Some(body))
    }
    pub fn database_credentials(&self, at: &Place, database: &str) -> Result<DatabaseCredentials, Error> {
        self.call(&e::DATABASE_CREDENTIALS, &at.with([database]), &[], NONE)
    }
    pub fn database_exec(&self, at: &Place, database: &str, body: &Exec) -> Result<Session<'_>, Error> {
        self.exec(&e::DATABASE_EXEC, &at.with([database]), body)
    }
    pub fn database_activity(&self, at: &Place, database: &str) -> Result<DatabaseActivity, Error> {
        self.call(&e::DATABASE_ACTIVITY_VIEW, &at.with([database]), &[], NONE)
    }
    pub fn database_statements(&self, at: &Place, database: &str) -> Result<DatabaseStatements, Error> {
        self.call(&e::DATABASE_STATEMENTS_VIEW, &at.with([database]), &[], NONE)
    }
    pub fn database_logs(
        &self,
        at: &Place,
        database: &str,
        query: &[(&str, &str)],
    ) -> Result<LogPage, Error> {
        self.call(&e::DATABASE_LOGS, &at.with([database]), query, NONE)
    }
    pub fn database_logs_follow(
        &self,
        at: &Place,
        database: &str,
        query: &[(&str, &str)],
    ) -> Result<Events<'_>, Error> {
        self.events(&e::DATABASE_LOGS, &at.with([database]), query)
    }
    pub fn database_settings(&self, at: &Place, database: &str) -> Result<DatabaseSettings, Error> {
        self.call(&e::DATABASE_SETTINGS_VIEW, &at.with([database]), &[], NONE)
    }
    pub fn database_tunnel(&self, at: &Place, database: &str) -> Result<Session<'_>, Error> {
        self.tunnel(&e::DATABASE_TUNNEL, &at.with([database]))
    }
    /// Whether [`Client::database_tunnel`] would come to be now; nothing is connected.
    pub fn database_tunnel_rehearse(&self, at: &Place, database: &str) -> Result<DryRun, Error> {
        let dry = [("dry_run", "true")];
        self.call(&e::DATABASE_TUNNEL, &at.with([database]), &dry, NONE)
    }

    pub fn images(&self) -> Result<Vec<Image>, Error> {
        self.all::<ImagePage>(&e::IMAGE_LIST, &[])
    }
    pub fn image_create(&self, body: &CreateImage) -> Result<Operation, Error> {
        self.call(&e::IMAGE_CREATE, &[], &[], Some(body))
    }
    pub fn image(&self, image: &str) -> Result<ImageDetail, Error> {
        self.call(&e::IMAGE_VIEW, &[image], &[], NONE)
    }
    pub fn image_delete(&self, image: &str) -> Result<(), Error> {
        self.call_empty(&e::IMAGE_DELETE, &[image])
    }

    pub fn operations(&self, at: &Place, limit: u16) -> Result<Vec<Operation>, Error> {
        let limit = limit.to_string();
        let page: OperationPage = self.call(&e::OPERATION_LIST, &at.with([]), &[("limit", &limit)], NONE)?;
        Ok(page.items)
    }
    pub fn operation(&self, operation: &str) -> Result<Operation, Error> {
        self.call(&e::OPERATION_VIEW, &[operation], &[], NONE)
    }
    pub fn operation_wait(&self, operation: &str, wait: &str) -> Result<Operation, Error> {
        self.call(&e::OPERATION_VIEW, &[operation], &[("wait", wait)], NONE)
    }
    pub fn master_key(&self) -> Result<MasterKey, Error> {
        self.call(&e::MASTER_KEY_VIEW, &[], &[], NONE)
    }
    pub fn backup_target(&self) -> Result<BackupTarget, Error> {
        self.call(&e::BACKUP_TARGET_VIEW, &[], &[], NONE)
    }
    pub fn backup_target_put(&self, body: &PutBackupTarget) -> Result<SetBackupTarget, Error> {
        self.call(&e::BACKUP_TARGET_PUT, &[], &[], Some(body))
    }
    pub fn backup_target_delete(&self) -> Result<(), Error> {
        self.call_empty(&e::BACKUP_TARGET_DELETE, &[])
    }
    pub fn backup_key_check(&self, body: &CheckBackupKey) -> Result<BackupTarget, Error> {
        self.call(&e::BACKUP_KEY_CHECK, &[], &[], Some(body))
    }
    pub fn backup_target_verify(&self) -> Result<Operation, Error> {
        self.call(&e::BACKUP_TARGET_VERIFY, &[], &[], NONE)
    }
    pub fn target_databases(&self) -> Result<Vec<TargetDatabase>, Error> {
        self.all::<TargetDatabasePage>(&e::TARGET_DATABASE_LIST, &[])
    }
    pub fn master_key_rotate(&self) -> Result<Operation, Error> {
        self.call(&e::MASTER_KEY_ROTATE, &[], &[], NONE)
    }

    pub fn operation_cancel(&self, operation: &str) -> Result<Operation, Error> {
        self.call(&e::OPERATION_CANCEL, &[operation], &[], NONE)
    }
    pub fn operation_log(&self, operation: &str) -> Result<OperationLog, Error> {
        self.call(&e::OPERATION_LOG_VIEW, &[operation], &[], NONE)
    }
    pub fn operation_log_follow(&self, operation: &str, since: &str) -> Result<Events<'_>, Error> {
        let mut query = vec![("follow", "true")];
        if !since.is_empty() {
            query.push(("since", since));
        }
        self.events(&e::OPERATION_LOG_VIEW, &[operation], &query)
    }
    pub fn events_watch(&self, query: &[(&str, &str)]) -> Result<Events<'_>, Error> {
        self.events(&e::EVENT_WATCH, &[], query)
    }
    pub fn server(&self) -> Result<Server, Error> {
        self.call(&e::SERVER_VIEW, &[], &[], NONE)
    }
}
