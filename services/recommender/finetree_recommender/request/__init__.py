# SPDX-License-Identifier: Apache-2.0
"""Reading of requests: answers, limits, hardware and refusals."""
