// The main flow as somebody would write it against the types that are made from /openapi.json; compiled with --strict, then run.
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

declare const process: { argv: string[]; exitCode?: number };

const [url, token] = process.argv.slice(2);
const { GET, POST } = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${token}` } });

async function main(): Promise<void> {
  const found = await POST("/scans/find", { body: { filter: { is_deleted: false, "classifiers.kind": { $exists: false } } } });
  if (found.error) throw new Error(found.error.error);
  const first: string | undefined = found.data.manifests[0]?.scan_id;
  if (first === undefined) throw new Error("there is no scan");
  const status = await GET("/scan/{scan_id}/status", { params: { path: { scan_id: first } } });
  if (status.error) throw new Error(status.error.error);
  const complete: boolean = status.data.scan_complete;
  const missing = await GET("/scan/{scan_id}/status", { params: { path: { scan_id: "no-such-scan" } } });
  console.log(JSON.stringify({ complete, missing: missing.error?.code }));
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
