# SPDX-License-Identifier: Apache-2.0
"""What both kinds of client share: requests, retries, uploads, following a stream."""
