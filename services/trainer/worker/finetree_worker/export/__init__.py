# SPDX-License-Identifier: Apache-2.0
"""Taking trained weights away: merged into their base, written for other programs, and asked again from the file."""
