// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	trainerv1 "example.com/finetree-client/gen/finetree_api/trainer/v1"
)

const downloadSilence = 10 * time.Second

// Download brings what a job made into a folder, every file's hash checked.
func (client *Client) Download(
	ctx context.Context, job, folder string, backoff *Backoff,
) ([]*trainerv1.ArtifactFile, error) {
	listed, err := Retry(ctx, backoff, func() (*trainerv1.ListArtifactsResponse, error) {
		return client.Trainer.ListArtifacts(ctx, &trainerv1.ListArtifactsRequest{Parent: job, PageSize: 1_000})
	})
	if err != nil {
		return nil, err
	}
	var files []*trainerv1.ArtifactFile
	for _, artifact := range listed.GetArtifacts() {
		for _, file := range artifact.GetFiles() {
			if err := client.downloadFile(ctx, artifact.GetName(), file, folder, backoff); err != nil {
				return nil, err
			}
			files = append(files, file)
		}
	}
	return files, nil
}

func (client *Client) downloadFile(
	ctx context.Context, artifact string, file *trainerv1.ArtifactFile, folder string, backoff *Backoff,
) error {
	if !filepath.IsLocal(file.GetPath()) {
		return fmt.Errorf("%s leads out of %s", file.GetPath(), folder)
	}
	target := filepath.Join(folder, file.GetPath())
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	part, err := os.Create(target + ".part")
	if err != nil {
		return err
	}
	defer part.Close()
	hash := sha256.New()
	write := func(chunk []byte) error {
		backoff.Progressed()
		hash.Write(chunk)
		_, err := part.Write(chunk)
		return err
	}
	for offset := int64(0); offset < file.GetSizeBytes(); {
		request := &trainerv1.DownloadArtifactRequest{Name: artifact, Path: file.GetPath(), Offset: offset}
		arrived, err := client.downloadOnce(ctx, request, write)
		offset += arrived
		if err != nil && offset < file.GetSizeBytes() {
			if err := backoff.Wait(ctx, err); err != nil {
				return err
			}
		}
	}
	if found := hex.EncodeToString(hash.Sum(nil)); found != file.GetSha256() {
		return fmt.Errorf("%s has SHA-256 %s, should have %s", file.GetPath(), found, file.GetSha256())
	}
	return os.Rename(target+".part", target)
}

// downloadOnce reads one stream to its end, and returns how many bytes arrived before that.
func (client *Client) downloadOnce(
	ctx context.Context, request *trainerv1.DownloadArtifactRequest, write func([]byte) error,
) (arrived int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(downloadSilence, cancel)
	defer func() {
		if !silent.Stop() {
			_ = client.Reconnect()
		}
	}()
	stream, err := client.Trainer.DownloadArtifact(ctx, request)
	if err != nil {
		return 0, err
	}
	for {
		piece, err := stream.Recv()
		if err != nil {
			return arrived, streamError(err)
		}
		silent.Reset(downloadSilence)
		if err := write(piece.GetChunk()); err != nil {
			return arrived, err
		}
		arrived += int64(len(piece.GetChunk()))
	}
}
