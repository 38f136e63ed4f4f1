// SPDX-License-Identifier: Apache-2.0
/** Waiting between tries: longer each time, with jitter, and never beyond what the caller has patience for. */

import { setTimeout as sleep } from "node:timers/promises";
import { ConnectError } from "@connectrpc/connect";
import { explain, isWorthARetry } from "./errors.js";

const FIRST_MS = 50;
const LONGEST_MS = 5_000;

export class Backoff {
  /** Tries that failed, in all. */
  failures = 0;
  #inARow = 0;
  #failingSince: number | undefined;

  /** @param patienceMs Time of continuous failure after which the last error is thrown. */
  constructor(private readonly patienceMs: number) {}

  /** Something arrived: begin anew with short waits. */
  progressed(): void {
    this.#inARow = 0;
    this.#failingSince = undefined;
  }

  /** Wait for the next try; throw the error where none can help or patience has run out. */
  async wait(error: unknown): Promise<void> {
    if (!(error instanceof ConnectError)) throw error; // of a file, say
    const failure = explain(error);
    const now = Date.now();
    this.#failingSince ??= now;
    const grown = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(this.#inARow, 10));
    const delay = Math.max(grown * (0.5 + Math.random() / 2), failure.retryAfterMs ?? 0);
    if (!isWorthARetry(failure) || now + delay > this.#failingSince + this.patienceMs) throw error;
    this.#inARow += 1;
    this.failures += 1;
    await sleep(delay);
  }
}

/** Call until it succeeds. A request that writes must carry a request_id, so that a repetition changes nothing. */
export async function retry<T>(call: () => Promise<T>, backoff: Backoff): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      await backoff.wait(error);
    }
  }
}
