# SPDX-License-Identifier: Apache-2.0
"""The order of jobs: places within a project, turns of projects, who passes whom, who yields, and positions."""
