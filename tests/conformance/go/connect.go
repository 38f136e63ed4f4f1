// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	estimatorv1 "example.com/finetree-client/gen/finetree_api/estimator/v1"
	recommenderv1 "example.com/finetree-client/gen/finetree_api/recommender/v1"
	trainerv1 "example.com/finetree-client/gen/finetree_api/trainer/v1"
)

// Options say where the services are and how they are called.
type Options struct {
	Recommender, Estimator, Trainer string        // "http://host:port", or "https://host:port" for TLS.
	CA                              string        // PEM file, where the system's certificates are not enough.
	Token                           string        // Bearer token, where something before the services asks for one.
	Timeout                         time.Duration // Deadline of every unary call that has none.
}

// Client has a stub for each service. One watch or download at a time may reconnect it.
type Client struct {
	Recommender recommenderv1.RecommenderServiceClient
	Estimator   estimatorv1.EstimatorServiceClient
	Trainer     trainerv1.TrainerServiceClient
	options     Options
	trainer     *grpc.ClientConn
}

// Connect makes a client; connections are opened by the first calls.
func Connect(options Options) (*Client, error) {
	recommender, err := dial(options.Recommender, options)
	if err != nil {
		return nil, err
	}
	estimator, err := dial(options.Estimator, options)
	if err != nil {
		return nil, err
	}
	client := &Client{
		Recommender: recommenderv1.NewRecommenderServiceClient(recommender),
		Estimator:   estimatorv1.NewEstimatorServiceClient(estimator),
		options:     options,
	}
	return client, client.Reconnect()
}

// Reconnect leaves the trainer's connection, which has fallen silent, for a new one.
func (client *Client) Reconnect() error {
	conn, err := dial(client.options.Trainer, client.options)
	if err != nil {
		return err
	}
	if client.trainer != nil {
		_ = client.trainer.Close()
	}
	client.trainer, client.Trainer = conn, trainerv1.NewTrainerServiceClient(conn)
	return nil
}

func dial(address string, options Options) (*grpc.ClientConn, error) {
	scheme, target, found := strings.Cut(address, "://")
	if !found {
		return nil, errors.New(address + " must be http://host:port or https://host:port")
	}
	transport := insecure.NewCredentials()
	if scheme == "https" {
		config := &tls.Config{}
		if options.CA != "" {
			pem, err := os.ReadFile(options.CA)
			if err != nil {
				return nil, err
			}
			config.RootCAs = x509.NewCertPool()
			config.RootCAs.AppendCertsFromPEM(pem)
		}
		transport = credentials.NewTLS(config)
	}
	dialOptions := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithUnaryInterceptor(deadline(options.Timeout)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20)), // a batch of estimates is larger than 4 MiB
	}
	if options.Token != "" {
		dialOptions = append(dialOptions, grpc.WithPerRPCCredentials(bearer(options.Token)))
	}
	return grpc.NewClient(target, dialOptions...)
}

func deadline(timeout time.Duration) grpc.UnaryClientInterceptor {
	return func(
		ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker,
		options ...grpc.CallOption,
	) error {
		if _, set := ctx.Deadline(); !set {
			limited, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			ctx = limited
		}
		return call(ctx, method, request, reply, conn, options...)
	}
}

type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (token bearer) RequireTransportSecurity() bool { return true }
