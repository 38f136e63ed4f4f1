# SPDX-License-Identifier: Apache-2.0
"""Jobs that export trained weights: what a job is asked for, resolved."""
