"""deploy -> watch -> rollback -> logs with the client that openapi-python-client made from openapi/v1.json.

python journey.py FIRST.tar SECOND.tar, with STOA_URL and STOA_TOKEN in the environment. Any surprise ends it with a traceback.
"""

import io
import os
import sys
from pathlib import Path

from stoa_api import AuthenticatedClient
from stoa_api.api.apps import app_create, app_logs, app_view
from stoa_api.api.operations import operation_log, operation_view
from stoa_api.api.people import caller_view
from stoa_api.api.releases import app_rollback, release_create, release_list, upload_create
from stoa_api.models import (
    App,
    CreateApp,
    CreateRelease,
    DryRun,
    LogPage,
    Operation,
    OperationLog,
    OperationState,
    Problem,
    Release,
    ReleasePage,
    Rollback,
    Upload,
    UploadSource,
    UploadSourceKind,
    Whoami,
)
from stoa_api.types import File

PLACE = ("default", "default", "production")
APP = "probe"


def expect(kind, answer):
    """The parsed answer, which has to be of that kind: the client must know what it got."""
    if not isinstance(answer.parsed, kind):
        raise SystemExit(f"wanted {kind.__name__}, got {answer.status_code}: {answer.content!r}")
    return answer.parsed


def settled(client, operation: Operation) -> Operation:
    while operation.state in (OperationState.PENDING, OperationState.RUNNING):
        operation = expect(Operation, operation_view.sync_detailed(operation.id, client=client, wait="30s"))
    if operation.state is not OperationState.SUCCEEDED:
        raise SystemExit(f"{operation.work} ended as {operation.state}: {operation.error}")
    return operation


def deploy(client, archive: str) -> Operation:
    file = File(payload=io.BytesIO(Path(archive).read_bytes()))
    upload = expect(Upload, upload_create.sync_detailed(*PLACE, client=client, body=file))
    body = CreateRelease(source=UploadSource(kind=UploadSourceKind.UPLOAD, upload=upload.id))
    accepted = release_create.sync_detailed(
        *PLACE, APP, client=client, body=body, idempotency_key=f"python-{upload.id}"
    )
    return settled(client, expect(Operation, accepted))


def main(first: str, second: str) -> None:
    with AuthenticatedClient(
        base_url=os.environ["STOA_URL"], token=os.environ["STOA_TOKEN"], timeout=90
    ) as client:
        expect(Whoami, caller_view.sync_detailed(client=client))
        absent = app_view.sync_detailed(*PLACE, APP, client=client)
        problem = expect(Problem, absent)
        assert (problem.status, problem.code) == (404, "not_found"), problem
        rehearsed = app_create.sync_detailed(*PLACE, client=client, body=CreateApp(name=APP), dry_run=True)
        assert expect(DryRun, rehearsed).status == 201
        expect(App, app_create.sync_detailed(*PLACE, client=client, body=CreateApp(name=APP)))

        deploy(client, first)
        operation = deploy(client, second)
        log = expect(OperationLog, operation_log.sync_detailed(operation.id, client=client))
        assert log.settled and log.lines, log
        app = expect(App, app_view.sync_detailed(*PLACE, APP, client=client))
        assert app.serving == "v2" and app.services[0].name == "web", app

        back = app_rollback.sync_detailed(*PLACE, APP, client=client, body=Rollback(to="v1"))
        settled(client, expect(Operation, back))
        app = expect(App, app_view.sync_detailed(*PLACE, APP, client=client))
        assert app.serving == "v1", app
        releases: list[Release] = expect(
            ReleasePage, release_list.sync_detailed(*PLACE, APP, client=client, limit=1)
        ).items
        assert [release.name for release in releases] == ["v2"], releases

        lines = expect(LogPage, app_logs.sync_detailed(*PLACE, APP, client=client, tail=100)).items
        assert any(line.release == "v2" and line.text for line in lines), lines
    print("done")


main(*sys.argv[1:])
