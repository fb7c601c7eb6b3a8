// deploy -> watch -> rollback -> logs with openapi-fetch over the types that openapi-typescript made from openapi/v1.json.
//
// node journey.js FIRST.tar SECOND.tar, with STOA_URL and STOA_TOKEN in the environment. Any surprise ends it with an error.

import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./stoa.js";

type Operation = components["schemas"]["Operation"];
type Event = components["schemas"]["Event"];
type LogLine = components["schemas"]["LogLine"];

const place = { org: "default", project: "default", environment: "production" };
const inApp = { ...place, app: "probe" };

const client = createClient<paths>({
  baseUrl: process.env["STOA_URL"] ?? "",
  headers: { Authorization: `Bearer ${process.env["STOA_TOKEN"] ?? ""}` },
});

/** What the server gave, or the problem it told. */
function given<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  if (answer.data === undefined) {
    throw new Error(`${answer.response.url} answered ${answer.response.status}: ${JSON.stringify(answer.error)}`);
  }
  return answer.data;
}

function ensure(condition: boolean, what: unknown): asserts condition {
  if (!condition) throw new Error(JSON.stringify(what));
}

/** The frames of an event stream, as the document describes them. */
async function* frames(body: ReadableStream<Uint8Array>): AsyncGenerator<components["schemas"]["Frame"]> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of body) {
    text += decoder.decode(chunk, { stream: true });
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const fields = text.slice(0, end).split("\n").map((line) => line.split(/: ?(.*)/s));
      text = text.slice(end + 2);
      const field = (name: string) => fields.find((found) => found[0] === name)?.[1];
      const data = field("data");
      if (data !== undefined) yield { id: field("id") ?? null, event: field("event") ?? null, data };
    }
  }
}

async function settled(operation: Operation): Promise<Operation> {
  // The log as a stream that ends with the operation: watching needs no asking again and again.
  const log = await client.GET("/v1/operations/{operation}/log", {
    params: { path: { operation: operation.id }, query: { follow: true } },
    headers: { Accept: "text/event-stream" },
    parseAs: "stream",
  });
  let last = "";
  for await (const frame of frames(given(log) as ReadableStream<Uint8Array>)) last = frame.event ?? "";
  ensure(last === "end", { last });
  const now = given(
    await client.GET("/v1/operations/{operation}", {
      params: { path: { operation: operation.id }, query: { wait: "30s" } },
    }),
  );
  ensure(now.state === "succeeded", now);
  return now;
}

async function deploy(archive: string): Promise<void> {
  const upload = given(
    await client.POST("/v1/orgs/{org}/projects/{project}/environments/{environment}/uploads", {
      params: { path: place },
      headers: { "Content-Type": "application/x-tar" },
      // The types know an archive as text; what is sent are its bytes.
      body: new Blob([await readFile(archive)]) as unknown as string,
      bodySerializer: (body) => body as unknown as Blob,
    }),
  );
  ensure("id" in upload, upload);
  const release = given(
    await client.POST("/v1/orgs/{org}/projects/{project}/environments/{environment}/apps/{app}/releases", {
      params: { path: inApp, header: { "Idempotency-Key": `typescript-${upload.id}` } },
      body: { source: { kind: "upload", upload: upload.id } },
    }),
  );
  ensure("deadline" in release, release);
  await settled(release);
}

async function serving(): Promise<string | null | undefined> {
  const app = await client.GET("/v1/orgs/{org}/projects/{project}/environments/{environment}/apps/{app}", {
    params: { path: inApp },
  });
  return given(app).serving;
}

/** Waits on the event stream until the app itself changed. */
async function changed(events: AsyncGenerator<components["schemas"]["Frame"]>): Promise<Event> {
  for (;;) {
    const next = await events.next();
    ensure(!next.done, "the events ended");
    const event = JSON.parse(next.value.data) as Event;
    if (event.kind === "app" && event.name === inApp.app) return event;
  }
}

const [first, second] = process.argv.slice(2);
ensure(first !== undefined && second !== undefined, "two archives are needed");
const absent = await client.GET("/v1/orgs/{org}/projects/{project}/environments/{environment}/apps/{app}", {
  params: { path: inApp },
});
ensure(absent.error?.code === "not_found", absent.error);

const stop = new AbortController();
const stream = await client.GET("/v1/events", {
  headers: { Accept: "text/event-stream" },
  parseAs: "stream",
  signal: stop.signal,
});
const events = frames(given(stream) as unknown as ReadableStream<Uint8Array>);
given(
  await client.POST("/v1/orgs/{org}/projects/{project}/environments/{environment}/apps", {
    params: { path: place },
    body: { name: inApp.app },
  }),
);
ensure((await changed(events)).change === "insert", "the app came to be unseen");

await deploy(first);
await deploy(second);
ensure((await serving()) === "v2", await serving());

const back = await client.POST("/v1/orgs/{org}/projects/{project}/environments/{environment}/apps/{app}/rollback", {
  params: { path: inApp },
  body: { to: "v1" },
});
const rollback = given(back);
ensure("deadline" in rollback, rollback);
await settled(rollback);
ensure((await serving()) === "v1", await serving());
ensure((await changed(events)).revision > 0, "the rollback went unseen");
stop.abort();

const logs = await client.GET("/v1/orgs/{org}/projects/{project}/environments/{environment}/apps/{app}/logs", {
  params: { path: inApp, query: { tail: 100 } },
});
const page = given(logs);
ensure("items" in page, page);
const lines: LogLine[] = page.items;
ensure(lines.some((line) => line.release === "v2" && line.text !== ""), lines);
console.log("done");
