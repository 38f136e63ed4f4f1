// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	trainerv1 "example.com/finetree-client/gen/finetree_api/trainer/v1"
	typesv1 "example.com/finetree-client/gen/finetree_api/types/v1"
)

// Train creates a job. The same requestID gives the same job, for ever; "" takes a new one.
func (client *Client) Train(
	ctx context.Context, dataset, modelPath, requestID string, backoff *Backoff,
) (*trainerv1.Job, error) {
	if requestID == "" {
		requestID = rand.Text()
	}
	spec := &typesv1.RunSpec{
		Model:    &typesv1.ModelSource{Source: &typesv1.ModelSource_Path{Path: modelPath}},
		Dataset:  &typesv1.DatasetSource{Source: &typesv1.DatasetSource_Name{Name: dataset}},
		Method:   &typesv1.RunSpec_Lora{Lora: &typesv1.Lora{Rank: proto.Int32(8)}},
		Training: &typesv1.Training{Length: &typesv1.Training_Epochs{Epochs: 1}},
	}
	task := &trainerv1.JobTemplate_Train{Train: &trainerv1.TrainTask{Spec: spec}}
	request := &trainerv1.CreateJobRequest{Job: &trainerv1.JobTemplate{Task: task}, RequestId: requestID}
	created, err := Retry(ctx, backoff, func() (*trainerv1.CreateJobResponse, error) {
		return client.Trainer.CreateJob(ctx, request)
	})
	return created.GetJob(), err
}

// Cancel asks a job to stop; Watch says when it has.
func (client *Client) Cancel(ctx context.Context, name string, backoff *Backoff) error {
	request := &trainerv1.CancelJobRequest{Name: name, RequestId: rand.Text()}
	_, err := Retry(ctx, backoff, func() (*trainerv1.CancelJobResponse, error) {
		return client.Trainer.CancelJob(ctx, request)
	})
	return err
}

const (
	heartbeat = time.Second
	silence   = 3 * time.Second
)

// Watch gives every event after a number to receive, exactly once, up to the Terminal event, over any number of broken
// connections. An event whose payload is nil is newer than these stubs: pass it over.
func (client *Client) Watch(
	ctx context.Context, name string, afterSeq int64, backoff *Backoff, receive func(*trainerv1.JobEvent) error,
) error {
	place := place{seen: afterSeq}
	for {
		ended, err := client.watchOnce(ctx, name, &place, backoff, receive)
		if ended {
			return err
		}
		if err := backoff.Wait(ctx, err); err != nil {
			return err
		}
	}
}

// place is how far a watch is: the number of its last event, and the cursor after its last whole batch.
type place struct {
	seen   int64
	cursor string
}

// watchOnce reads one stream; ended is true where another must not follow.
func (client *Client) watchOnce(
	ctx context.Context, name string, place *place, backoff *Backoff, receive func(*trainerv1.JobEvent) error,
) (ended bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := &trainerv1.WatchJobRequest{Name: name, Heartbeat: durationpb.New(heartbeat)}
	if place.cursor == "" {
		request.Start = &trainerv1.WatchJobRequest_AfterSeq{AfterSeq: place.seen}
	} else {
		request.Start = &trainerv1.WatchJobRequest_Cursor{Cursor: place.cursor}
	}
	silent := time.AfterFunc(silence, cancel)
	defer func() {
		if !silent.Stop() && !ended { // it has fired: a new stream on this connection would be as silent
			_ = client.Reconnect()
		}
	}()
	stream, err := client.Trainer.WatchJob(ctx, request)
	if err != nil {
		return false, err
	}
	for {
		batch, err := stream.Recv()
		if err != nil { // io.EOF too: the stream ended before its Terminal event
			return false, streamError(err)
		}
		silent.Reset(silence)
		backoff.Progressed()
		for _, event := range batch.GetEvents() {
			if event.GetSeq() <= place.seen {
				continue // an earlier stream brought it, and broke within its batch
			}
			place.seen = event.GetSeq()
			if err := receive(event); err != nil {
				return true, err
			}
			if event.GetTerminal() != nil {
				return true, nil
			}
		}
		place.cursor = batch.GetCursor()
	}
}

// streamError gives an end without a status, which io.EOF is, the code of a broken connection.
func streamError(err error) error {
	if _, known := status.FromError(err); known {
		return err
	}
	return status.Error(codes.Unavailable, "the stream ended too early: "+err.Error())
}
