# SPDX-License-Identifier: Apache-2.0
"""The gRPC servicers: TrainerService for clients, WorkerService for workers."""
