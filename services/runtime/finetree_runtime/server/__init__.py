# SPDX-License-Identifier: Apache-2.0
"""A gRPC server: start and stop, authentication, validation, logs, metrics and health, and a one-shot program."""
