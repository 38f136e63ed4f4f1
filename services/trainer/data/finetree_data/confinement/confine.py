# SPDX-License-Identifier: Apache-2.0
"""Confine this process: first what only a single thread can do, then files, then system calls.

The order matters. A network of its own needs capabilities, so they are dropped afterwards; Landlock and seccomp need
"no new privileges"; the filter of system calls forbids the namespaces that came before, and comes last.
"""

import os
import platform
from collections.abc import Callable, Iterable, Mapping

from finetree_data.confinement import landlock, limits, places, privileges, seccomp
from finetree_data.confinement import measures as names
from finetree_data.confinement.measures import Measure, State, missing
from finetree_data.confinement.policy import Policy
from finetree_data.confinement.syscalls import machine

NEEDS_NETWORK = "this task downloads from a hub"
NEEDS_LOOPBACK = "processes of this task talk over the loopback interface, and it has no network of its own"
NOT_CONFINED = "the service confines nothing beside the user"


class ConfinementError(Exception):
    """A measure that is required could not be taken."""


class Confinement:
    """What holds for this process; `measures` grows when it is confined to a task."""

    def __init__(self, policy: Policy, measures: Iterable[Measure]) -> None:
        self.policy = policy
        self._measures = {measure.name: measure for measure in measures}

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What became of each measure."""
        return tuple(self._measures.values())

    @property
    def holding(self) -> list[str]:
        """Names of the measures that hold."""
        return [measure.name for measure in self.measures if measure.state is State.HOLDS]

    def narrow(self, *, read: Iterable[str], write: Iterable[str], job: bool) -> None:
        """Confine what runs from now on to the files of a task, further than the process was at its start.

        `job`: whether these are the files of one job alone. Before Landlock 8 this holds for the calling thread and
        those that it starts; others of the process, which read no file of a task, keep the rules of the start.
        """
        name, version = names.JOB_FILES, landlock.abi()
        if self.policy.user_alone:
            self._measures[name] = Measure(name, State.OFF, NOT_CONFINED)
            return
        if version < 1 or names.FILES not in self.holding:
            self._measures[name] = Measure(name, State.UNAVAILABLE, "there is no Landlock")
            return
        own = Policy(
            read=tuple(read),
            write=tuple(write),
            temporary=self.policy.temporary,
            sockets=self.policy.sockets,
            network=self.policy.network,
            loopback=self.policy.loopback,
        )
        whole = version >= landlock.ALL_THREADS_ABI
        found = places.rules(own, os.environ)
        network = own.network or own.loopback
        landlock.restrict(found, version=version, network=network, ports=own.loopback, all_threads=whole)
        reasons = [] if job else ["a worker that may go on to another job of its project: to the jobs of this service"]
        if not whole:
            reasons.append("for the thread of the task, not for those that keep the stream to the service")
        self._measures[name] = Measure(name, State.PARTIAL if reasons else State.HOLDS, "; ".join(reasons))


def confine(policy: Policy, environment: Mapping[str, str] = os.environ) -> Confinement:
    """Take all measures that this system allows. The process must have a single thread.

    Raises ConfinementError where a required one cannot be taken, or where a half-taken one has broken the process; and
    where it cannot become the user of the policy: it must never go on as the one it was.
    """
    if policy.user_alone:
        kinds = (*names.CORE, names.SCOPE, names.UNIX_SOCKETS, names.NETWORK_NAMESPACE)
        return Confinement(policy, [*(Measure(name, State.OFF, NOT_CONFINED) for name in kinds), *_user(policy)])
    if platform.system() != "Linux":
        kinds = (*names.CORE, names.NETWORK_NAMESPACE, names.SCOPE, names.UNIX_SOCKETS)
        measures = [Measure(name, State.UNAVAILABLE, "only Linux has it") for name in kinds]
        return _checked(policy, measures)
    measures = [
        _limits(policy),
        _namespace(policy),
        *_user(policy),
        _taken(names.CAPABILITIES, privileges.drop_capabilities),
        _taken(names.NO_NEW_PRIVILEGES, privileges.give_up_new_privileges),
        *_landlock(policy, environment),
        *_seccomp(policy),
    ]
    return _checked(policy, measures)


def _checked(policy: Policy, measures: list[Measure]) -> Confinement:
    if policy.required and (lacking := missing(measures)):
        raise ConfinementError("; ".join(f"{measure.name}: {measure.why}" for measure in lacking))
    return Confinement(policy, measures)


def _taken(name: str, take: Callable[[], object]) -> Measure:
    try:
        take()
    except OSError as error:
        return Measure(name, State.UNAVAILABLE, error.strerror or "the system refuses it")
    return Measure(name, State.HOLDS)


def _limits(policy: Policy) -> Measure:
    left = limits.limit(policy.max_file_bytes)
    return Measure(names.LIMITS, State.PARTIAL if left else State.HOLDS, left)


def _namespace(policy: Policy) -> Measure:
    name = names.NETWORK_NAMESPACE
    if policy.network:
        return Measure(name, State.OFF, NEEDS_NETWORK)
    if not policy.namespace:
        return Measure(name, State.UNAVAILABLE, "the system allows this user no namespace")
    try:
        privileges.leave_network()
        if policy.loopback:
            privileges.raise_loopback()
    except OSError as error:
        raise ConfinementError(f"{name}: {error.strerror}") from error
    return Measure(name, State.HOLDS)


def _user(policy: Policy) -> list[Measure]:
    if not policy.user:
        return []
    try:
        privileges.become(policy.user, policy.group)
    except OSError as error:
        raise ConfinementError(f"{names.USER}: {error.strerror}") from error
    return [Measure(names.USER, State.HOLDS)]


def _landlock(policy: Policy, environment: Mapping[str, str]) -> list[Measure]:
    version = landlock.abi()
    kinds = (names.FILES, names.SCOPE, names.UNIX_SOCKETS)
    if version < 1:
        return [Measure(name, State.UNAVAILABLE, "this kernel has no Landlock, or it is off") for name in kinds]
    try:
        landlock.restrict(
            places.rules(policy, environment),
            version=version,
            network=policy.network or policy.loopback,
            ports=policy.loopback,
            scope=True,
        )
    except OSError as error:
        return [Measure(name, State.UNAVAILABLE, error.strerror or "the system refuses it") for name in kinds]
    lacking = landlock.gaps(version)
    return [
        Measure(names.FILES, State.PARTIAL if lacking else State.HOLDS, lacking),
        _since(names.SCOPE, version, landlock.SCOPE_ABI),
        _since(names.UNIX_SOCKETS, version, 9),
    ]


def _since(name: str, version: int, needed: int) -> Measure:
    if version >= needed:
        return Measure(name, State.HOLDS)
    return Measure(name, State.UNAVAILABLE, f"it needs Landlock {needed}, this kernel has {version}")


def _seccomp(policy: Policy) -> list[Measure]:
    over_ip = policy.network or policy.loopback
    families = (*seccomp.LOCAL_FAMILIES, *((seccomp.AF_INET, seccomp.AF_INET6) if over_ip else ()))
    calls = _taken(names.SYSTEM_CALLS, lambda: seccomp.install(seccomp.program(machine(), families)))
    if policy.network:
        return [calls, Measure(names.SOCKETS, State.OFF, NEEDS_NETWORK)]
    if policy.loopback and not policy.namespace:
        # Not OFF: a service that requires confinement refuses such a task.
        return [calls, Measure(names.SOCKETS, State.UNAVAILABLE, NEEDS_LOOPBACK)]
    return [calls, Measure(names.SOCKETS, calls.state, calls.why)]
