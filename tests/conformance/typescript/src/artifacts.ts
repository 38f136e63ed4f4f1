// SPDX-License-Identifier: Apache-2.0
/** Downloading what a job made, every file's hash checked. */

import { createHash } from "node:crypto";
import { mkdir, open, rename } from "node:fs/promises";
import { dirname, resolve, sep } from "node:path";
import { type Backoff, retry } from "./backoff.js";
import type { Finetree } from "./connect.js";
import type { Artifact, ArtifactFile } from "./gen/finetree_api/trainer/v1/artifact_pb.js";

export async function download(
  finetree: Finetree,
  job: string,
  folder: string,
  backoff: Backoff,
): Promise<ArtifactFile[]> {
  const { artifacts } = await retry(() => finetree.trainer.listArtifacts({ parent: job, pageSize: 1_000 }), backoff);
  const files: ArtifactFile[] = [];
  for (const artifact of artifacts) {
    for (const file of artifact.files) {
      await downloadFile(finetree, artifact, file, folder, backoff);
      files.push(file);
    }
  }
  return files;
}

const SILENCE_MS = 10_000;

async function downloadFile(
  { trainer, trainerConnection }: Finetree,
  { name }: Artifact,
  { path, sizeBytes, sha256 }: ArtifactFile,
  folder: string,
  backoff: Backoff,
): Promise<void> {
  const target = resolve(folder, path);
  if (!target.startsWith(resolve(folder) + sep)) throw new Error(`${path} leads out of ${folder}`);
  await mkdir(dirname(target), { recursive: true });
  const hash = createHash("sha256");
  const part = await open(`${target}.part`, "w");
  try {
    let offset = 0n;
    while (offset < sizeBytes) {
      const silence = setTimeout(() => trainerConnection.abort(), SILENCE_MS);
      try {
        for await (const { content } of trainer.downloadArtifact({ name, path, offset }, { timeoutMs: 0 })) {
          silence.refresh();
          if (content.case !== "chunk") continue;
          await part.write(content.value);
          hash.update(content.value);
          offset += BigInt(content.value.length);
          backoff.progressed();
        }
      } catch (error) {
        await backoff.wait(error); // then on from the offset
      } finally {
        clearTimeout(silence);
      }
    }
  } finally {
    await part.close();
  }
  const found = hash.digest("hex");
  if (found !== sha256) throw new Error(`${path} has SHA-256 ${found}, should have ${sha256}`);
  await rename(`${target}.part`, target);
}
