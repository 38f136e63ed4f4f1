# SPDX-License-Identifier: Apache-2.0
"""What a data folder holds, without a service: read only, and nothing of the folder is changed."""
