"""A placement may be one on servers."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import tensorflow as tf
import placer.tf
from placer.cluster import Cluster, Device, Link
from placer.errors import UsageError
from placer.placement import Placement

tasks = tf.train.ClusterSpec({"worker": [f"127.0.0.1:{port}" for port in sys.argv[1:]]})
servers = [tf.distribute.Server(tasks, job_name="worker", task_index=i) for i in range(2)]
tf.config.experimental_connect_to_cluster(tasks)
variable = tf.Variable(tf.ones((4, 4)))


def step(x):
    variable.assign_add(x)
    return tf.matmul(variable, x, name="product")


spec = tf.TensorSpec((4, 4))
graph = placer.tf.read(step, spec)
names = ("cpu:0", "cpu:1")
cluster = Cluster("two", tuple(Device(name, "cpu") for name in names), (Link(names, 1e9),))
placement = Placement(graph, cluster, [int(name == "product") for name in graph.op_names])
workers = [f"/job:worker/task:{i}/device:CPU:0" for i in range(2)]
placed = placer.tf.apply(step, placement, spec, devices=workers)
print(float(placed(tf.ones((4, 4)))[0, 0]), float(variable[0, 0]))
report = placer.tf.verify(placed, tf.ones((4, 4)), strict=True)
print(sorted({op.ran[0] for op in report.ops}))
mixed = placer.tf.apply(step, placement, spec, devices=["CPU:0", workers[1]])
print(float(mixed(tf.ones((4, 4)))[0, 0]))
try:
    placer.tf.verify(mixed, tf.ones((4, 4)))
except UsageError as error:
    print(error)
"""


def _free_ports(number: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_a_step_runs_on_two_servers() -> None:
    """Each op on its own; variables are here again after it; the report names the servers."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *_free_ports(2)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    first, devices, mixed, refused = done.stdout.splitlines()
    assert first == "8.0 2.0"
    assert devices == str([f"/job:worker/replica:0/task:{i}/device:CPU:0" for i in range(2)])
    assert mixed == "12.0"
    assert "expected either" in refused
