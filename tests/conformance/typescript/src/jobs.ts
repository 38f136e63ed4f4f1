// SPDX-License-Identifier: Apache-2.0
/** Training on a dataset: the job, its events, its end. */

import { randomUUID } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { type Backoff, retry } from "./backoff.js";
import type { Finetree } from "./connect.js";
import type { JobEvent } from "./gen/finetree_api/trainer/v1/event_pb.js";
import { WatchJobRequestSchema } from "./gen/finetree_api/trainer/v1/event_log_pb.js";
import type { Job } from "./gen/finetree_api/trainer/v1/job_pb.js";
import { CreateJobRequestSchema } from "./gen/finetree_api/trainer/v1/trainer_pb.js";
import { RunSpecSchema } from "./gen/finetree_api/types/v1/run_spec_pb.js";

export async function train(
  { trainer }: Finetree,
  dataset: string,
  modelPath: string,
  backoff: Backoff,
  requestId: string = randomUUID(),
): Promise<Job> {
  const spec = create(RunSpecSchema, {
    model: { source: { case: "path", value: modelPath } },
    dataset: { source: { case: "name", value: dataset } },
    method: { case: "lora", value: { rank: 8 } },
    training: { length: { case: "epochs", value: 1 } },
  });
  const request = create(CreateJobRequestSchema, { job: { task: { case: "train", value: { spec } } }, requestId });
  const { job } = await retry(() => trainer.createJob(request), backoff);
  if (job === undefined) throw new Error("the trainer answered without a job");
  return job;
}

export async function cancel({ trainer }: Finetree, name: string, backoff: Backoff): Promise<void> {
  const request = { name, requestId: randomUUID() };
  await retry(() => trainer.cancelJob(request), backoff);
}

const HEARTBEAT = { seconds: 1n };
const SILENCE_MS = 3_000;

/** Yield every event after a number exactly once, up to the Terminal event, over any number of broken connections. */
export async function* watch(finetree: Finetree, name: string, backoff: Backoff, afterSeq = 0n): AsyncGenerator<JobEvent> {
  let seen = afterSeq;
  let cursor = "";
  for (;;) {
    const silence = setTimeout(() => finetree.trainerConnection.abort(), SILENCE_MS);
    try {
      const start = create(WatchJobRequestSchema, {
        name,
        start: cursor === "" ? { case: "afterSeq", value: seen } : { case: "cursor", value: cursor },
        heartbeat: HEARTBEAT,
      });
      for await (const batch of finetree.trainer.watchJob(start, { timeoutMs: 0 })) {
        silence.refresh();
        backoff.progressed();
        for (const event of batch.events) {
          if (event.seq <= seen) continue; // an earlier stream brought it, and broke within its batch
          seen = event.seq;
          yield event; // a payload newer than these stubs has no case: pass it over
          if (event.payload.case === "terminal") return;
        }
        cursor = batch.cursor;
      }
      throw new ConnectError("the stream ended before its Terminal event", Code.Unavailable);
    } catch (error) {
      await backoff.wait(error);
    } finally {
      clearTimeout(silence);
    }
  }
}
