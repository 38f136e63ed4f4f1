// SPDX-License-Identifier: Apache-2.0

// The client as a program: one command, one JSON object on stdout; an error of a call is such an object, too.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	estimatorv1 "example.com/finetree-client/gen/finetree_api/estimator/v1"
	recommenderv1 "example.com/finetree-client/gen/finetree_api/recommender/v1"
	trainerv1 "example.com/finetree-client/gen/finetree_api/trainer/v1"
	typesv1 "example.com/finetree-client/gen/finetree_api/types/v1"
)

type facts map[string]any

// integer is an int64 in JSON: in quotes and marked, since JSON's numbers are doubles.
func integer(value int64) facts { return facts{"int64": strconv.FormatInt(value, 10)} }

type command func(ctx context.Context, client *Client, backoff *Backoff, words []string) (facts, error)

var commands = map[string]command{
	"info":      info,
	"recommend": recommend,
	"estimate":  estimate,
	"upload":    upload,
	"train":     train,
	"watch":     watch,
	"cancel":    cancel,
	"download":  download,
}

func info(ctx context.Context, client *Client, _ *Backoff, _ []string) (facts, error) {
	recommender, err := client.Recommender.GetServerInfo(ctx, &recommenderv1.GetServerInfoRequest{})
	if err != nil {
		return nil, err
	}
	estimator, err := client.Estimator.GetServerInfo(ctx, &estimatorv1.GetServerInfoRequest{})
	if err != nil {
		return nil, err
	}
	trainer, err := client.Trainer.GetServerInfo(ctx, &trainerv1.GetServerInfoRequest{})
	if err != nil {
		return nil, err
	}
	servers := []facts{}
	for _, server := range []*typesv1.ServerInfo{recommender.GetServer(), estimator.GetServer(), trainer.GetServer()} {
		limits := facts{}
		for name, limit := range server.GetLimits() {
			limits[name] = integer(limit)
		}
		servers = append(servers, facts{"service": server.GetService(), "limits": limits})
	}
	return facts{"servers": servers}, nil
}

func recommend(ctx context.Context, client *Client, _ *Backoff, words []string) (facts, error) {
	answer, err := client.Recommend(ctx, words[0], words[1])
	if err != nil {
		return nil, err
	}
	spec, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(answer.GetSpec())
	return facts{
		"method":      strings.TrimPrefix(answer.GetVerdict().GetMethod().String(), "METHOD_"),
		"headline":    answer.GetVerdict().GetHeadline(),
		"spec":        json.RawMessage(spec),
		"plan_digest": answer.GetPlanDigest(),
	}, err
}

func estimate(ctx context.Context, client *Client, _ *Backoff, words []string) (facts, error) {
	text, err := os.ReadFile(words[0])
	if err != nil {
		return nil, err
	}
	spec := &typesv1.RunSpec{}
	if err := protojson.Unmarshal(text, spec); err != nil {
		return nil, err
	}
	answer, err := client.Estimate(ctx, spec)
	return facts{
		"fit":              strings.TrimPrefix(answer.GetFit().GetVerdict().String(), "FIT_VERDICT_"),
		"device_bytes":     answer.GetMemory().GetDeviceBytes().GetExpected(),
		"total_seconds":    answer.GetTime().GetTotalSeconds().GetExpected(),
		"optimizer_steps":  integer(answer.GetOptimizerSteps()),
		"total_parameters": integer(answer.GetTotalParameters()),
	}, err
}

func upload(ctx context.Context, client *Client, backoff *Backoff, words []string) (facts, error) {
	dataset, err := client.Upload(ctx, words[0], backoff)
	return facts{
		"name":            dataset.GetName(),
		"state":           strings.TrimPrefix(dataset.GetState().String(), "DATASET_STATE_"),
		"sha256":          dataset.GetSha256(),
		"committed_bytes": integer(dataset.GetCommittedBytes()),
	}, err
}

func train(ctx context.Context, client *Client, backoff *Backoff, words []string) (facts, error) {
	requestID := ""
	if len(words) > 2 {
		requestID = words[2]
	}
	job, err := client.Train(ctx, words[0], words[1], requestID, backoff)
	return facts{"name": job.GetName(), "state": stateName(job.GetState()), "last_seq": integer(job.GetLastSeq())}, err
}

func watch(ctx context.Context, client *Client, backoff *Backoff, words []string) (facts, error) {
	afterSeq := int64(0)
	if len(words) > 1 {
		parsed, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return nil, err
		}
		afterSeq = parsed
	}
	seqs, payloads, state := []facts{}, []string{}, trainerv1.JobState_JOB_STATE_UNSPECIFIED
	err := client.Watch(ctx, words[0], afterSeq, backoff, func(event *trainerv1.JobEvent) error {
		seqs = append(seqs, integer(event.GetSeq()))
		payloads = append(payloads, payloadName(event))
		if terminal := event.GetTerminal(); terminal != nil {
			state = terminal.GetState()
		}
		return nil
	})
	return facts{"seqs": seqs, "payloads": payloads, "state": stateName(state)}, err
}

func cancel(ctx context.Context, client *Client, backoff *Backoff, words []string) (facts, error) {
	if err := client.Cancel(ctx, words[0], backoff); err != nil {
		return nil, err
	}
	return watch(ctx, client, backoff, words[:1])
}

func download(ctx context.Context, client *Client, backoff *Backoff, words []string) (facts, error) {
	arrived, err := client.Download(ctx, words[0], words[1], backoff)
	files := []facts{}
	for _, file := range arrived {
		files = append(files, facts{
			"path": file.GetPath(), "size_bytes": integer(file.GetSizeBytes()), "sha256": file.GetSha256(),
		})
	}
	return facts{"files": files}, err
}

func stateName(state trainerv1.JobState) string {
	return strings.TrimPrefix(state.String(), "JOB_STATE_")
}

// payloadName is the name of the payload's field in the .proto, empty for a payload newer than these stubs.
func payloadName(event *trainerv1.JobEvent) string {
	message := event.ProtoReflect()
	field := message.WhichOneof(message.Descriptor().Oneofs().ByName("payload"))
	if field == nil {
		return ""
	}
	return string(field.Name())
}

var codeNames = map[codes.Code]string{
	codes.InvalidArgument:    "INVALID_ARGUMENT",
	codes.NotFound:           "NOT_FOUND",
	codes.AlreadyExists:      "ALREADY_EXISTS",
	codes.PermissionDenied:   "PERMISSION_DENIED",
	codes.Unauthenticated:    "UNAUTHENTICATED",
	codes.ResourceExhausted:  "RESOURCE_EXHAUSTED",
	codes.FailedPrecondition: "FAILED_PRECONDITION",
	codes.OutOfRange:         "OUT_OF_RANGE",
	codes.Unimplemented:      "UNIMPLEMENTED",
	codes.Internal:           "INTERNAL",
	codes.Unavailable:        "UNAVAILABLE",
	codes.DeadlineExceeded:   "DEADLINE_EXCEEDED",
}

func errorFacts(err error) facts {
	failure := Explain(err)
	said := facts{
		"code":       codeNames[failure.Code],
		"message":    failure.Message,
		"reason":     failure.Reason,
		"metadata":   failure.Metadata,
		"violations": failure.Violations,
	}
	if failure.Retryable {
		said["retry_after_seconds"] = failure.RetryAfter.Seconds()
	}
	return facts{"error": said}
}

func main() {
	options, seconds := Options{}, 0.0
	flag.StringVar(&options.Recommender, "recommender", "http://127.0.0.1:50051", "address")
	flag.StringVar(&options.Estimator, "estimator", "http://127.0.0.1:50052", "address")
	flag.StringVar(&options.Trainer, "trainer", "http://127.0.0.1:50053", "address")
	flag.StringVar(&options.CA, "ca", "", "PEM file of certificates to trust")
	flag.StringVar(&options.Token, "token", "", "bearer token, with https alone")
	flag.Float64Var(&seconds, "timeout", 20, "seconds for a call, and of continuous failure")
	flag.Parse()
	options.Timeout = time.Duration(seconds * float64(time.Second))
	run, found := commands[flag.Arg(0)]
	if !found {
		fail(fmt.Errorf("no command %q", flag.Arg(0)))
	}
	client, err := Connect(options)
	if err != nil {
		fail(err)
	}
	backoff := &Backoff{Patience: options.Timeout}
	answer, err := run(context.Background(), client, backoff, flag.Args()[1:])
	if _, called := status.FromError(err); err != nil && !called {
		fail(err)
	}
	if err != nil {
		print(errorFacts(err))
		os.Exit(1)
	}
	answer["failures"] = backoff.Failures
	print(answer)
}

func print(answer facts) {
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}
