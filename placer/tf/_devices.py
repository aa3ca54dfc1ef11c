"""Which TensorFlow device stands for each device of a cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from placer.cluster import Cluster
from placer.errors import PlacementError, UsageError


def device_names(cluster: Cluster, devices: Sequence[str] | None) -> tuple[str, ...]:
    """The names of TensorFlow's devices in the order of the cluster's, whether they exist or not.

    Args:
        cluster: The cluster.
        devices: Names such as ``"CPU:0"``, ``"/device:GPU:1"`` or
            ``"/job:worker/task:0/device:CPU:0"``, one for each device of the cluster. None for
            those that the cluster's own names say: ``"gpu:1"`` is ``"/device:GPU:1"``.

    Returns:
        Names in the long form, ``[num_devices]``.

    Raises:
        UsageError: Not one name for each device, a name that is none, or one that is given twice.
    """
    given = cluster.device_names if devices is None else devices
    if isinstance(given, str) or len(given) != cluster.num_devices:
        raise UsageError(
            f"devices is {given!r}; expected the names of {cluster.num_devices} TensorFlow "
            f"devices, for {', '.join(cluster.device_names)}"
        )
    names = tuple(_parse(name).to_string() for name in given)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"device {twice!r} is given twice; expected another one for each device")
    return names


def present_devices(cluster: Cluster, devices: Sequence[str] | None) -> tuple[str, ...]:
    """As :func:`device_names`, of devices that TensorFlow has; in full, job and task included.

    Raises:
        UsageError: As :func:`device_names`, or TensorFlow has no such device.
    """
    import tensorflow as tf

    names = device_names(cluster, devices)
    known = [full_name(device.name) for device in tf.config.list_logical_devices()]
    local = full_name("")
    for name, device in zip(names, cluster.device_names, strict=True):
        if full_name(name) not in known:
            there_is = ", ".join(n.removeprefix(local) for n in known)
            raise UsageError(
                f"TensorFlow has no device {name!r} for {device!r} of cluster {cluster.name!r}; "
                f"it has: {there_is}; devices=[...] says which one each device stands for"
            )
    return tuple(full_name(name) for name in names)


def check_there(names: Sequence[str], there: Sequence[str]) -> None:
    """Refuses a device in full that is not among those that there are.

    Raises:
        UsageError: There is one.
    """
    for name in names:
        if name not in there:
            raise UsageError(f"TensorFlow has no device {name!r}; it has: {', '.join(there)}")


def full_name(name: str) -> str:
    """A device's name in full; where it does not say job or task, those of this process."""
    import tensorflow as tf

    here = tf.DeviceSpec(job="localhost", replica=0, task=0)
    spec = tf.DeviceSpec.from_string(name)
    if spec.job is not None:
        here = here.replace(job=spec.job)
    full: str = here.make_merged_spec(spec).to_string()
    return full


def check_kernels(graph_def: Any) -> None:
    """Refuses a node on a device for which TensorFlow has no kernel of its type.

    Raises:
        PlacementError: There is one.
    """
    import tensorflow as tf
    from tensorflow.python.framework.kernels import get_registered_kernels_for_op

    kernels: dict[str, Any] = {}
    for node in graph_def.node:
        if node.op not in kernels:
            kernels[node.op] = get_registered_kernels_for_op(node.op).kernel
        kinds = {kernel.device_type for kernel in kernels[node.op] if _takes(kernel, node)}
        if not kinds & {tf.DeviceSpec.from_string(node.device).device_type, "DEFAULT"}:
            raise PlacementError(
                f"op {node.name!r} is placed on {node.device}, but TensorFlow can run {node.op} of "
                f"these types on {', '.join(sorted(kinds)) or 'no device'} only"
            )


def _takes(kernel: Any, node: Any) -> bool:
    """Whether a kernel is for the element types of a node; other limits of kernels are let be."""
    for constraint in kernel.constraint:
        if not constraint.allowed_values.list.type:
            continue
        value = node.attr[constraint.name]
        types = value.list.type if value.HasField("list") else [value.type]
        if not set(types) <= set(constraint.allowed_values.list.type):
            return False
    return True


def _parse(name: str) -> Any:
    import tensorflow as tf

    long = re.sub(r"^/?(\w+):(\d+)$", r"/device:\1:\2", name)  # CPU:0, /cpu:0
    try:
        spec = tf.DeviceSpec.from_string(long)
    except ValueError:
        spec = tf.DeviceSpec()
    if spec.device_type is None or spec.device_index is None:
        raise UsageError(
            f"{name!r} is no name of a TensorFlow device, such as '/device:GPU:0'; "
            "devices=[...] says which one each device of the cluster stands for"
        )
    return spec.replace(device_type=spec.device_type.upper())
