// SPDX-License-Identifier: Apache-2.0
/** Uploading a file, in pieces, on from where a cut left it. */

import { createHash, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { basename } from "node:path";
import { pipeline } from "node:stream/promises";
import { Code } from "@connectrpc/connect";
import { type Backoff, retry } from "./backoff.js";
import type { Finetree } from "./connect.js";
import { explain } from "./errors.js";
import { type Dataset, DatasetState } from "./gen/finetree_api/trainer/v1/dataset_pb.js";

const PIECE_BYTES = 256 * 1024;
/** One call sends as much, so that each can have a deadline. */
const SEGMENT_BYTES = 8 * 1024 * 1024;
const SEGMENT_MS = 60_000;

export async function upload({ trainer, trainerConnection }: Finetree, path: string, backoff: Backoff): Promise<Dataset> {
  const { size } = await stat(path);
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  const request = {
    displayName: basename(path),
    sizeBytes: BigInt(size),
    sha256: hash.digest("hex"),
    requestId: randomUUID(), // one for all tries of this call
  };
  let { dataset } = await retry(() => trainer.createDataset(request), backoff);
  while (dataset !== undefined && dataset.state !== DatasetState.READY) {
    const { name, committedBytes } = dataset;
    try {
      ({ dataset } = await trainer.writeDataset(pieces(path, name, committedBytes), { timeoutMs: SEGMENT_MS }));
    } catch (error) {
      if (explain(error).code === Code.DeadlineExceeded) trainerConnection.abort();
      // What was sent before a cut may still be on its way into the file.
      if (!["OFFSET_MISMATCH", "DATASET_READY"].includes(explain(error).reason)) await backoff.wait(error);
      ({ dataset } = await retry(() => trainer.getDataset({ name }), backoff));
      if (dataset !== undefined && dataset.committedBytes > committedBytes) backoff.progressed();
    }
  }
  if (dataset === undefined) throw new Error("the trainer answered without a dataset");
  return dataset;
}

async function* pieces(path: string, name: string, start: bigint) {
  let offset = start;
  const segment = { start: Number(start), end: Number(start) + SEGMENT_BYTES - 1 };
  for await (const chunk of createReadStream(path, { ...segment, highWaterMark: PIECE_BYTES })) {
    const data = new Uint8Array(chunk as Buffer);
    yield { name, offset, data };
    offset += BigInt(data.length);
  }
}
