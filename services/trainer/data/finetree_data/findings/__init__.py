# SPDX-License-Identifier: Apache-2.0
"""What is found in the rows of a file that may make a run learn the wrong thing."""
