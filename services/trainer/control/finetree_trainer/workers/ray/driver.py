# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_trainer.workers.ray.driver`: the driver of the cluster, started by the trainer, not by hand.

Ray ends a driver a minute after the head has died, and with it the process that it is in: so the trainer talks to this
one, by lines of JSON on stdin and stdout, and starts another one. Everything that must outlive it is in the cluster:
each worker has a detached actor with a name.

    {"do": "place", "worker", "node", "num_cpus", "num_gpus", "resources", "order"}
                                            → {"event": "placed", "worker", "pid"}
                                            → {"event": "refused", "worker", "text"}
    {"do": "watch", "worker"}               → {"event": "exited", "worker", "exit", "overran"}
                                            → {"event": "lost", "worker"}: Ray has its actor no more; it may live on
    {"do": "keep", "workers"}               ends every other actor of the namespace, with its worker; nothing where
                                            another replica of the trainer leads
    {"do": "signal", "worker", "kill"}
    {"do": "request", "bundles"}            the nodes that the autoscaler is to have ready, until the next such line, or
                                            the end of stdin: then none
                                            → {"event": "nodes", "nodes"}: at the start, and when they have changed
"""

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from finetree_data.exchange.leader_file import leads

NODES_SECONDS = 1.0
"""Time between two looks at the cluster's nodes."""
LOOK_AGAIN_SECONDS = 30.0
"""Time between two looks at nodes that lacked something."""
PLACE_SECONDS = 60.0
"""Longest time until an actor runs: on a node that others have filled meanwhile it waits."""
RETRY_SECONDS = 5.0
"""Time between two tries to reach an actor that does not answer."""
ANSWER_SECONDS = 5.0
"""Longest time until the head takes a connection."""

REQUEST_SECONDS = 60.0
"""Time after which nodes are asked for again: a head that was started anew does not know of it."""

_lock = threading.Lock()
# What Ray and other libraries print goes to stderr: stdout is for messages alone.
_messages = os.fdopen(os.dup(1), "w", encoding="utf-8")


def say(event: str, **fields: Any) -> None:
    """Tell the trainer something."""
    with _lock:
        _messages.write(json.dumps({"event": event, **fields}) + "\n")
        _messages.flush()


def connect(address: str, namespace: str) -> str:
    """Connect to the cluster; what is wrong, as "REASON: text", else "". Ends the process in no case."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError):
        return f"RAY_UNREACHABLE: no Ray cluster answers at {address}; start its head, or correct the address"
    try:
        import ray
    except ImportError:
        return "RAY_MISSING: the package ray is not installed; pip install 'finetree-trainer[ray]'"
    try:
        ray.init(address=address, namespace=namespace, log_to_driver=False, configure_logging=False)
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        return (
            f"RAY_VERSION_MISMATCH: the cluster has another release of Ray or Python than this machine: {_why(error)}"
        )
    except ConnectionError:
        return f"RAY_UNREACHABLE: what answers at {address} is no Ray cluster, or this machine is no node of it"
    return ""


def _why(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:300]


class Driver:
    """Carries out what the trainer asks for; each worker has a thread that waits for it."""

    def __init__(
        self, installation: dict[str, Any], resources: dict[str, float], lead: dict[str, str] | None = None
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from finetree_trainer.workers.ray import node

        self._ray: Any = ray
        self._on_node = NodeAffinitySchedulingStrategy
        self._installation, self._resources = installation, resources
        self._lead = lead or {"name": "", "file": ""}
        self._host: Any = ray.remote(max_restarts=0, max_task_retries=0)(node.WorkerHost)
        self._look: Any = ray.remote(num_cpus=0, max_retries=0)(node.look)
        self._looks: dict[str, dict[str, Any]] = {}
        self._looked_at = 0.0
        self._told: list[dict[str, Any]] | None = None
        self._bundles: list[dict[str, float]] | None = None
        self._asked: tuple[list[dict[str, float]] | None, float] = (None, 0.0)
        """What was asked of the autoscaler, and when."""

    def obey(self, message: dict[str, Any]) -> None:
        """Carry out one message."""
        match message["do"]:
            case "place":
                self._spawn(self._place, message)
            case "watch":
                self._spawn(self._watch, message["worker"])
            case "keep":
                # Here, so that what is placed from now on is not among what is found.
                self._keep(set(message["workers"]))
            case "signal":
                self._spawn(self._signal, message["worker"], message["kill"])
            case "request":
                self._bundles = message["bundles"]

    def _spawn(self, work: Any, *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _place(self, message: dict[str, Any]) -> None:
        worker: str = message["worker"]
        try:
            started = self._start(message)
        except self._ray.exceptions.GetTimeoutError:
            started = {"problem": f"Ray started no worker within {PLACE_SECONDS:g} s: others may use its resources"}
        except Exception as error:  # noqa: BLE001 - whatever Ray raises, the job waits and is tried again
            started = {"problem": f"Ray could not start a worker there ({type(error).__name__})"}
        if started["problem"]:
            self._end(worker)
            say("refused", worker=worker, text=started["problem"])
            return
        say("placed", worker=worker, pid=started["pid"])
        self._watch(worker)

    def _start(self, message: dict[str, Any]) -> dict[str, Any]:
        actor = self._host.options(
            name=message["worker"],
            lifetime="detached",
            num_cpus=message["num_cpus"],
            num_gpus=message["num_gpus"],
            resources=message["resources"],
            scheduling_strategy=self._on_node(message["node"], soft=False),
        ).remote()
        order = message["order"] | {"installation": self._installation, "lead": self._lead}
        started: dict[str, Any] = self._ray.get(actor.start.remote(order), timeout=PLACE_SECONDS)
        return started

    def _watch(self, worker: str) -> None:
        while True:
            try:
                actor = self._ray.get_actor(worker)
                ended = self._ray.get(actor.wait.remote())
            except (ValueError, self._ray.exceptions.ActorDiedError):
                say("lost", worker=worker)
                return
            except Exception:  # noqa: BLE001 - its node or the head does not answer now
                time.sleep(RETRY_SECONDS)
                continue
            say("exited", worker=worker, **ended)
            if leads(**self._lead):  # else the replica that does is still to be told
                self._end(worker)
            return

    def _keep(self, workers: set[str]) -> None:
        with suppress(Exception):  # the head is away: the next driver is told again
            for worker in set(self._ray.util.list_named_actors()) - workers:
                if leads(**self._lead):
                    self._end(worker)

    def _end(self, worker: str) -> None:
        with suppress(Exception):  # it has ended already
            self._ray.kill(self._ray.get_actor(worker))

    def _signal(self, worker: str, kill: bool) -> None:  # noqa: FBT001 - a thread's arguments
        try:
            self._ray.get_actor(worker).signal.remote(kill=kill, lead=self._lead)
        except Exception:  # noqa: BLE001 - it is not there any more, which its watch tells
            return

    def ask_for_nodes(self) -> None:
        """Ask the autoscaler for what the trainer has said last; not where it has said nothing, or leads no more."""
        bundles, now = self._bundles, time.monotonic()
        before, asked_at = self._asked
        if bundles is None or (bundles == before and now - asked_at < REQUEST_SECONDS) or not leads(**self._lead):
            return
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=bundles)
        self._asked = bundles, now

    def withdraw(self) -> None:
        """Ask for no node any more: nobody is left who would."""
        if self._bundles is not None:
            self._bundles = []
            with suppress(Exception):  # the head is away, and the request with it
                self.ask_for_nodes()

    def tell_nodes(self) -> None:
        """Tell the trainer of the nodes, where they have changed; each is looked at until nothing is missing there."""
        known = {}
        for each in self._ray.nodes():
            if each["Alive"] and self._usable(each["Resources"]):
                known[each["NodeID"]] = each
        again = time.monotonic() - self._looked_at > LOOK_AGAIN_SECONDS
        missing = [node for node in known if node not in self._looks or (again and self._looks[node]["problem"])]
        if missing:
            self._looked_at = time.monotonic()
        pending = {node_id: self._begin_look(node_id) for node_id in missing}
        for node_id, reference in pending.items():
            self._looks[node_id] = self._end_look(reference)
        nodes = [
            {
                "id": node_id,
                "name": f"{each['NodeName']}-{node_id[-8:]}",
                "cpus": each["Resources"].get("CPU", 0),
                "gpus": each["Resources"].get("GPU", 0),
                "memory": each["Resources"].get("memory", 0),
                "resources": _custom(each["Resources"]),
                **self._looks[node_id],
            }
            for node_id, each in sorted(known.items())
        ]
        if nodes != self._told:
            self._told = nodes
            say("nodes", nodes=nodes)

    def _usable(self, resources: dict[str, float]) -> bool:
        """Return whether workers may run there: a head without processors is none of them."""
        wanted = all(resources.get(name, 0) >= count for name, count in self._resources.items())
        return wanted and (resources.get("CPU", 0) >= 1 or resources.get("GPU", 0) >= 1)

    def _begin_look(self, node_id: str) -> Any:
        return self._look.options(scheduling_strategy=self._on_node(node_id, soft=False)).remote(self._installation)

    def _end_look(self, reference: Any) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._ray.get(reference, timeout=PLACE_SECONDS)
        except Exception:  # noqa: BLE001 - whatever Ray raises: a package that is missing comes as several errors
            text = "nothing of the suite runs there: it must be installed in the Python that Ray uses"
            return {"problem": text, "cpu_name": "", "memory_found": 0, "gpus_found": []}
        return {
            "problem": found["problem"],
            "cpu_name": found["cpu_name"],
            "memory_found": found["memory"],
            "gpus_found": found["gpus"],
        }


def _custom(resources: dict[str, float]) -> dict[str, float]:
    """Resources of a node that its operator has named."""
    own = ("CPU", "GPU", "memory", "object_store_memory")
    return {name: count for name, count in resources.items() if name not in own and not name.startswith("node:")}


def main() -> None:
    """Serve the trainer until it closes stdin."""
    os.dup2(2, 1)
    setup = json.loads(sys.stdin.readline())
    problem = connect(setup["address"], setup["namespace"])
    if problem:
        reason, _, text = problem.partition(": ")
        say("unusable", reason=reason, text=text)
        sys.exit(2)
    driver = Driver(setup["installation"], setup["resources"], setup["lead"])
    driver.tell_nodes()
    say("ready")

    def watch_nodes() -> None:
        while True:
            time.sleep(NODES_SECONDS)
            with suppress(Exception):  # the head is away; Ray ends this process if it stays away
                driver.ask_for_nodes()
                driver.tell_nodes()

    threading.Thread(target=watch_nodes, daemon=True).start()
    for line in sys.stdin:
        driver.obey(json.loads(line))
    driver.withdraw()
    # Threads wait in Ray, where a disconnect would wait for them.
    os._exit(0)


if __name__ == "__main__":
    main()
