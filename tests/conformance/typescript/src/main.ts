// SPDX-License-Identifier: Apache-2.0
/** The client as a program: one command, one JSON object on stdout; an error of a call is such an object, too. */

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { fromJsonString, toJson } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { download } from "./artifacts.js";
import { Backoff } from "./backoff.js";
import { connect, type Finetree } from "./connect.js";
import { upload } from "./datasets.js";
import { explain } from "./errors.js";
import { FitVerdict } from "./gen/finetree_api/types/v1/estimate_summary_pb.js";
import { DatasetState } from "./gen/finetree_api/trainer/v1/dataset_pb.js";
import { JobState } from "./gen/finetree_api/trainer/v1/job_pb.js";
import { Method } from "./gen/finetree_api/types/v1/method_pb.js";
import { RunSpecSchema } from "./gen/finetree_api/types/v1/run_spec_pb.js";
import { cancel, train, watch } from "./jobs.js";
import { estimate, recommend } from "./plan.js";

type Facts = Record<string, unknown>;
type Command = (finetree: Finetree, backoff: Backoff, ...words: string[]) => Promise<Facts>;

const COMMANDS: Readonly<Record<string, Command>> = {
  async info({ recommender, estimator, trainer }) {
    const answers = await Promise.all([recommender, estimator, trainer].map((client) => client.getServerInfo({})));
    return { servers: answers.map(({ server }) => ({ service: server?.service, limits: server?.limits })) };
  },

  async recommend(finetree, _, model = "", accelerator = "") {
    const { verdict, spec, planDigest } = await recommend(finetree, model, accelerator);
    return {
      method: Method[verdict?.method ?? Method.UNSPECIFIED],
      headline: verdict?.headline,
      spec: spec && toJson(RunSpecSchema, spec, { useProtoFieldName: true }),
      plan_digest: planDigest,
    };
  },

  async estimate(finetree, _, specFile = "") {
    const spec = fromJsonString(RunSpecSchema, await readFile(specFile, "utf8"));
    const { fit, memory, time, optimizerSteps, totalParameters } = await estimate(finetree, spec);
    return {
      fit: FitVerdict[fit?.verdict ?? FitVerdict.UNSPECIFIED],
      device_bytes: memory?.deviceBytes?.expected,
      total_seconds: time?.totalSeconds?.expected,
      optimizer_steps: optimizerSteps,
      total_parameters: totalParameters,
    };
  },

  async upload(finetree, backoff, path = "") {
    const { name, state, sha256, committedBytes } = await upload(finetree, path, backoff);
    return { name, state: DatasetState[state], sha256, committed_bytes: committedBytes };
  },

  async train(finetree, backoff, dataset = "", modelPath = "", requestId) {
    const { name, state, lastSeq } = await train(finetree, dataset, modelPath, backoff, requestId);
    return { name, state: JobState[state], last_seq: lastSeq };
  },

  async watch(finetree, backoff, job = "", afterSeq = "0") {
    const seqs: bigint[] = [];
    const payloads: (string | undefined)[] = [];
    let state = JobState.UNSPECIFIED;
    for await (const event of watch(finetree, job, backoff, BigInt(afterSeq))) {
      seqs.push(event.seq);
      payloads.push(event.payload.case);
      if (event.payload.case === "terminal") ({ state } = event.payload.value);
    }
    return { seqs, payloads, state: JobState[state] };
  },

  async cancel(finetree, backoff, job = "") {
    await cancel(finetree, job, backoff);
    const { seqs, ...rest } = await COMMANDS["watch"]!(finetree, backoff, job);
    return rest;
  },

  async download(finetree, backoff, job = "", folder = "") {
    const files = await download(finetree, job, folder, backoff);
    return { files: files.map(({ path, sizeBytes, sha256 }) => ({ path, size_bytes: sizeBytes, sha256 })) };
  },
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    recommender: { type: "string", default: "http://127.0.0.1:50051" },
    estimator: { type: "string", default: "http://127.0.0.1:50052" },
    trainer: { type: "string", default: "http://127.0.0.1:50053" },
    ca: { type: "string" },
    token: { type: "string" },
    timeout: { type: "string", default: "20" },
  },
});
const [name = "", ...words] = positionals;
const command = COMMANDS[name];
if (command === undefined) throw new Error(`no command ${name}; there are ${Object.keys(COMMANDS).join(", ")}`);
const timeoutMs = Number(values.timeout) * 1_000;
const ca = values.ca === undefined ? undefined : await readFile(values.ca);
const finetree = connect({ ...values, ca, timeoutMs });
const backoff = new Backoff(timeoutMs);

// gRPC's names: Connect writes them InvalidArgument.
const CODE_NAMES = Object.fromEntries(
  Object.entries(Code)
    .filter(([, value]) => typeof value === "number")
    .map(([name, value]) => [value, name.replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase()]),
) as Record<Code, string>;

function print(facts: Facts): void {
  const text = JSON.stringify(facts, (_, value: unknown) => (typeof value === "bigint" ? { int64: `${value}` } : value));
  console.log(text);
}

try {
  print({ ...(await command(finetree, backoff, ...words)), failures: backoff.failures });
} catch (error) {
  if (!(error instanceof ConnectError)) throw error;
  const { code, retryAfterMs, ...rest } = explain(error);
  print({ error: { ...rest, code: CODE_NAMES[code], retry_after_seconds: retryAfterMs && retryAfterMs / 1_000 } });
  process.exitCode = 1;
}
process.exit(); // idle connections would keep the process until they time out
