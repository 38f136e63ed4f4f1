# SPDX-License-Identifier: Apache-2.0
"""Files over HTTP: datasets that are uploaded from an offset, artifacts that are downloaded in ranges."""
