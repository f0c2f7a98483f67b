"""A Ray cluster of simulated nodes, as a process that obeys: `python -m tests.jobs.simulated FOLDER PORT PORT PORT`.

A line says how it stands, as JSON: the address for drivers, and the name of every node by its raylet's pid. Each order
on its input, `remove NAME`, kills a node at once and is answered by such a line. The head has no CPUs.
"""

from __future__ import annotations

import json
import sys

from ray.cluster_utils import Cluster

CPUS = {"one": 2, "two": 1}  # room for one group of two workers of one CPU: on either node, or on "one" alone


def main(folder: str, gcs: str, dashboard: str, agent: str) -> None:
    head = {
        "num_cpus": 0,
        "gcs_server_port": int(gcs),
        "dashboard_port": int(dashboard),
        "dashboard_agent_listen_port": int(agent),
        "include_dashboard": True,
        "temp_dir": folder,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = {name: cluster.add_node(num_cpus=cpus) for name, cpus in CPUS.items()}
    while True:
        raylets = {node.all_processes["raylet"][0].process.pid: name for name, node in nodes.items()}
        print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
        order = sys.stdin.readline().split()
        if not order:
            return
        cluster.remove_node(nodes.pop(order[1]), allow_graceful=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
