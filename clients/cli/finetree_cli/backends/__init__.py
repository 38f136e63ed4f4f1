# SPDX-License-Identifier: Apache-2.0
"""Who answers a command: a server at an address, or a service of this machine in a child process.

`discovery` decides which of the two. `estimator` and `recommender` each have a Protocol that both answer alike: a
server through the SDK's Client, and a child process through `local_process`. `suite` starts all three servers.
"""
