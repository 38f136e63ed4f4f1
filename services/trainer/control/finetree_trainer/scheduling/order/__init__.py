# SPDX-License-Identifier: Apache-2.0
"""The order of waiting jobs: places within a project, turns of projects, and the positions that follow."""
