// SPDX-License-Identifier: Apache-2.0
/** Which method, and what it will take. */

import type { Finetree } from "./connect.js";
import type { Estimate } from "./gen/finetree_api/estimator/v1/estimate_pb.js";
import { QualityNeed, type RecommendResponse } from "./gen/finetree_api/recommender/v1/recommendation_pb.js";
import type { RunSpec } from "./gen/finetree_api/types/v1/run_spec_pb.js";

export function recommend({ recommender }: Finetree, model: string, accelerator: string): Promise<RecommendResponse> {
  return recommender.recommend({
    model: { source: { case: "name", value: model } },
    hardware: { device: { case: "accelerator", value: accelerator } },
    datasetProfile: { examples: 1_000n, totalTokens: 200_000n },
    quality: QualityNeed.IMPORTANT,
  });
}

export async function estimate({ estimator }: Finetree, spec: RunSpec): Promise<Estimate> {
  const datasetProfile = { examples: 1_000n, totalTokens: 200_000n };
  const { estimate } = await estimator.estimateRun({ spec, datasetProfile });
  if (estimate === undefined) throw new Error("the estimator answered without an estimate");
  return estimate;
}
