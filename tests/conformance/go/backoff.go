// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/status"
)

const (
	firstDelay   = 50 * time.Millisecond
	longestDelay = 5 * time.Second
)

// Backoff waits between tries: longer each time, with jitter, and never beyond Patience.
type Backoff struct {
	Patience time.Duration // Time of continuous failure after which the last error is returned.
	Failures int           // Tries that failed, in all.
	inARow   int
	since    time.Time
}

// Progressed begins anew with short waits: something arrived.
func (backoff *Backoff) Progressed() { backoff.inARow, backoff.since = 0, time.Time{} }

// Wait waits for the next try; it returns the error where none can help or patience has run out.
func (backoff *Backoff) Wait(ctx context.Context, err error) error {
	if _, called := status.FromError(err); !called {
		return err // of a file, say
	}
	failure, now := Explain(err), time.Now()
	if backoff.since.IsZero() {
		backoff.since = now
	}
	grown := min(longestDelay, firstDelay<<min(backoff.inARow, 10))
	delay := max(grown/2+rand.N(grown/2), failure.RetryAfter)
	if ctx.Err() != nil || !failure.WorthARetry() || now.Add(delay).After(backoff.since.Add(backoff.Patience)) {
		return err
	}
	backoff.inARow++
	backoff.Failures++
	select {
	case <-time.After(delay):
		return nil
	case <-ctx.Done():
		return err
	}
}

// Retry calls until it succeeds. A request that writes must carry a request_id, so that a repetition changes nothing.
func Retry[T any](ctx context.Context, backoff *Backoff, call func() (T, error)) (T, error) {
	for {
		answer, err := call()
		if err == nil {
			return answer, nil
		}
		if err = backoff.Wait(ctx, err); err != nil {
			return answer, err
		}
	}
}
