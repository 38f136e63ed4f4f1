// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Violation is a field that a request has wrong, or a state that it needs.
type Violation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// Failure is what an error says.
type Failure struct {
	Code       codes.Code
	Message    string
	Reason     string // An ErrorReason without its prefix; empty where the error is not the service's but the connection's.
	Metadata   map[string]string
	Violations []Violation
	RetryAfter time.Duration
	Retryable  bool // The service says when to try again.
}

// Explain reads an error's code and details.
func Explain(err error) Failure {
	answer := status.Convert(err)
	failure := Failure{Code: answer.Code(), Message: answer.Message()}
	for _, detail := range answer.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			failure.Reason, failure.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.BadRequest:
			for _, each := range detail.GetFieldViolations() {
				failure.Violations = append(failure.Violations, Violation{each.GetField(), each.GetDescription()})
			}
		case *errdetails.PreconditionFailure:
			for _, each := range detail.GetViolations() {
				failure.Violations = append(failure.Violations, Violation{each.GetSubject(), each.GetDescription()})
			}
		case *errdetails.RetryInfo:
			failure.RetryAfter, failure.Retryable = detail.GetRetryDelay().AsDuration(), true
		}
	}
	return failure
}

// WorthARetry reports whether another try can help: the connection broke, or the service says when.
func (failure Failure) WorthARetry() bool {
	if failure.Reason != "" {
		return failure.Retryable
	}
	switch failure.Code {
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.Aborted, codes.Canceled, codes.DeadlineExceeded:
		return true
	}
	return false
}
