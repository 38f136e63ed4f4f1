// SPDX-License-Identifier: Apache-2.0
/** Clients of the three services: addresses, TLS, token, deadline. */

import { type Client, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { EstimatorService } from "./gen/finetree_api/estimator/v1/estimator_pb.js";
import { RecommenderService } from "./gen/finetree_api/recommender/v1/recommender_pb.js";
import { TrainerService } from "./gen/finetree_api/trainer/v1/trainer_pb.js";

export interface Options {
  /** "http://host:port", or "https://host:port" for TLS. */
  readonly recommender: string;
  readonly estimator: string;
  readonly trainer: string;
  /** PEM certificates that a server's is checked against, where the system's are not enough. */
  readonly ca?: Buffer | undefined;
  /** Bearer token, where something before the services asks for one. */
  readonly token?: string | undefined;
  /** Deadline of every unary call, milliseconds. */
  readonly timeoutMs: number;
}

export interface Finetree {
  readonly recommender: Client<typeof RecommenderService>;
  readonly estimator: Client<typeof EstimatorService>;
  readonly trainer: Client<typeof TrainerService>;
  /** The trainer's HTTP/2 connection, to be aborted when it has fallen silent: the next call makes a new one. */
  readonly trainerConnection: Http2SessionManager;
}

/** gRPC servers take pings that come faster for an attack. */
const KEEPALIVE = { pingIntervalMs: 300_000, pingTimeoutMs: 10_000 };

export function connect(options: Options): Finetree {
  const interceptors = options.token === undefined ? [] : [bearer(options.token)];
  const defaultTimeoutMs = options.timeoutMs;
  const tls = options.ca === undefined ? {} : { ca: options.ca };
  const to = (baseUrl: string) => {
    const sessionManager = new Http2SessionManager(baseUrl, KEEPALIVE, tls);
    const transport = createGrpcTransport({ baseUrl, sessionManager, interceptors, defaultTimeoutMs });
    return { sessionManager, transport };
  };
  const trainer = to(options.trainer);
  return {
    recommender: createClient(RecommenderService, to(options.recommender).transport),
    estimator: createClient(EstimatorService, to(options.estimator).transport),
    trainer: createClient(TrainerService, trainer.transport),
    trainerConnection: trainer.sessionManager,
  };
}

function bearer(token: string): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
}
