// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"

	trainerv1 "example.com/finetree-client/gen/finetree_api/trainer/v1"
)

const (
	pieceBytes   = 256 << 10
	segmentBytes = 8 << 20 // One call sends as much, so that each can have a deadline.
	segmentTime  = time.Minute
)

// Upload brings a file to the trainer, in pieces, on from where a cut left it.
func (client *Client) Upload(ctx context.Context, path string, backoff *Backoff) (*trainerv1.Dataset, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, file)
	if err != nil {
		return nil, err
	}
	request := &trainerv1.CreateDatasetRequest{
		DisplayName: filepath.Base(path),
		SizeBytes:   size,
		Sha256:      hex.EncodeToString(hash.Sum(nil)),
		RequestId:   rand.Text(), // one for all tries of this call
	}
	created, err := Retry(ctx, backoff, func() (*trainerv1.CreateDatasetResponse, error) {
		return client.Trainer.CreateDataset(ctx, request)
	})
	if err != nil {
		return nil, err
	}
	dataset := created.GetDataset()
	for dataset.GetState() != trainerv1.DatasetState_DATASET_STATE_READY {
		written, err := client.writeSegment(ctx, file, dataset)
		if err == nil {
			dataset = written
			continue
		}
		failure := Explain(err)
		if failure.Code == codes.DeadlineExceeded {
			if err := client.Reconnect(); err != nil {
				return nil, err
			}
		}
		// What was sent before a cut may still be on its way into the file.
		if failure.Reason != "OFFSET_MISMATCH" && failure.Reason != "DATASET_READY" {
			if err := backoff.Wait(ctx, err); err != nil {
				return nil, err
			}
		}
		found, err := Retry(ctx, backoff, func() (*trainerv1.GetDatasetResponse, error) {
			return client.Trainer.GetDataset(ctx, &trainerv1.GetDatasetRequest{Name: dataset.GetName()})
		})
		if err != nil {
			return nil, err
		}
		if found.GetDataset().GetCommittedBytes() > dataset.GetCommittedBytes() {
			backoff.Progressed()
		}
		dataset = found.GetDataset()
	}
	return dataset, nil
}

func (client *Client) writeSegment(
	ctx context.Context, file *os.File, dataset *trainerv1.Dataset,
) (*trainerv1.Dataset, error) {
	ctx, cancel := context.WithTimeout(ctx, segmentTime)
	defer cancel()
	stream, err := client.Trainer.WriteDataset(ctx)
	if err != nil {
		return nil, err
	}
	start := dataset.GetCommittedBytes()
	end := min(start+segmentBytes, dataset.GetSizeBytes())
	for offset := start; offset < end; {
		data := make([]byte, min(pieceBytes, end-offset))
		if _, err := file.ReadAt(data, offset); err != nil {
			return nil, err
		}
		err := stream.Send(&trainerv1.WriteDatasetRequest{Name: dataset.GetName(), Offset: offset, Data: data})
		if errors.Is(err, io.EOF) {
			break // the service ended the call; CloseAndRecv says why
		}
		if err != nil {
			return nil, err
		}
		offset += int64(len(data))
	}
	written, err := stream.CloseAndRecv()
	return written.GetDataset(), err
}
