# SPDX-License-Identifier: Apache-2.0
"""Files: datasets that are uploaded, and the results of jobs that are downloaded."""
