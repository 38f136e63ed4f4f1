// SPDX-License-Identifier: Apache-2.0
/** What an error says: status code, stable reason, wrong fields, and when to try again. */

import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  PreconditionFailureSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";

export interface Violation {
  readonly field: string;
  readonly description: string;
}

export interface Failure {
  readonly code: Code;
  readonly message: string;
  /** An ErrorReason without its prefix; "" where the error is not the service's, but of the connection. */
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly violations: readonly Violation[];
  readonly retryAfterMs?: number;
}

export function explain(error: unknown): Failure {
  const status = ConnectError.from(error);
  const info = status.findDetails(ErrorInfoSchema)[0];
  const retry = status.findDetails(RetryInfoSchema)[0]?.retryDelay;
  const fields = status.findDetails(BadRequestSchema).flatMap((detail) => detail.fieldViolations);
  const states = status.findDetails(PreconditionFailureSchema).flatMap((detail) => detail.violations);
  return {
    code: status.code,
    message: status.rawMessage,
    reason: info?.reason ?? "",
    metadata: info?.metadata ?? {},
    violations: [
      ...fields.map(({ field, description }) => ({ field, description })),
      ...states.map(({ subject, description }) => ({ field: subject, description })),
    ],
    ...(retry === undefined ? {} : { retryAfterMs: durationMs(retry) }),
  };
}

const BROKEN = new Set([
  Code.Unavailable,
  Code.Internal,
  Code.Unknown,
  Code.Aborted,
  Code.Canceled,
  Code.DeadlineExceeded,
]);

/** Whether another try can help: the connection broke, or the service says when. */
export function isWorthARetry(failure: Failure): boolean {
  if (failure.reason === "") return BROKEN.has(failure.code);
  return failure.retryAfterMs !== undefined;
}
