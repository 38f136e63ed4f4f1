# SPDX-License-Identifier: Apache-2.0
"""The object store behind the data folder: what is put there, fetched again, dropped here and deleted in both."""
