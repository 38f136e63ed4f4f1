// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"google.golang.org/protobuf/proto"

	estimatorv1 "example.com/finetree-client/gen/finetree_api/estimator/v1"
	recommenderv1 "example.com/finetree-client/gen/finetree_api/recommender/v1"
	typesv1 "example.com/finetree-client/gen/finetree_api/types/v1"
)

var rows = &typesv1.DatasetProfile{Examples: 1_000, TotalTokens: proto.Int64(200_000)}

// Recommend asks for a method and a complete recipe.
func (client *Client) Recommend(
	ctx context.Context, model, accelerator string,
) (*recommenderv1.RecommendResponse, error) {
	return client.Recommender.Recommend(ctx, &recommenderv1.RecommendRequest{
		Model:          &typesv1.ModelSource{Source: &typesv1.ModelSource_Name{Name: model}},
		Hardware:       &typesv1.Hardware{Device: &typesv1.Hardware_Accelerator{Accelerator: accelerator}},
		DatasetProfile: rows,
		Quality:        recommenderv1.QualityNeed_QUALITY_NEED_IMPORTANT,
	})
}

// Estimate asks what a run takes.
func (client *Client) Estimate(ctx context.Context, spec *typesv1.RunSpec) (*estimatorv1.Estimate, error) {
	answer, err := client.Estimator.EstimateRun(ctx, &estimatorv1.EstimateRunRequest{Spec: spec, DatasetProfile: rows})
	return answer.GetEstimate(), err
}
