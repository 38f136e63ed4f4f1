# SPDX-License-Identifier: Apache-2.0
"""Files in an object store: what a bucket can do, and folders that are kept in one with a manifest that comes last."""
