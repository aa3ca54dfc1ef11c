"""Which devices TensorFlow has, and what is known of them without measuring."""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from placer.cluster import Cluster, Device, Link
from placer.errors import UsageError
from placer.tf._devices import device_names, full_name, present_devices
from placer.tf.workers import LocalWorkers, Workers, check_workers, cpus_of, num_workers


def names_on(cluster: Cluster, devices: Sequence[str] | None, workers: Workers) -> tuple[str, ...]:
    """What TensorFlow calls the devices of a cluster, in full, ``[num_devices]``.

    Args:
        cluster: The cluster.
        devices: Name of the TensorFlow device for each of them. None for those of the same names
            or, with workers, the CPU of each.
        workers: As ``placer.tf.MeasuredEvaluator`` takes them.

    Raises:
        UsageError: A device that TensorFlow does not have, or an argument outside its range.
    """
    check_workers(workers)
    if not workers:
        return present_devices(cluster, devices)
    if devices is None:
        devices = cpus_of(workers)
        if len(devices) != cluster.num_devices:
            raise UsageError(
                f"{len(devices)} workers for the {cluster.num_devices} devices of cluster "
                f"{cluster.name!r}; expected one for each, or devices=[...]"
            )
    return tuple(full_name(name) for name in device_names(cluster, devices))


def find_devices(
    devices: Sequence[str] | None, workers: Workers
) -> tuple[tuple[str, ...], tuple[Device, ...]]:
    """The devices and what TensorFlow calls them.

    Args:
        devices: Names of TensorFlow devices. None for all CPUs, GPUs and TPUs of this process or,
            with workers, the CPU of each.
        workers: As ``placer.tf.MeasuredEvaluator`` takes them.

    Returns:
        TensorFlow's names in full, and the devices without rates, ``[num_devices]`` each. Where
        memory is not known it is ``inf``. Where each is the CPU of a server, it has its address.

    Raises:
        UsageError: A device that TensorFlow does not have, or an argument outside its range.
    """
    import tensorflow as tf

    check_workers(workers)
    if devices is None:
        devices = (
            cpus_of(workers)
            if workers
            else [
                device.name
                for kind in ("CPU", "GPU", "TPU")
                for device in tf.config.list_logical_devices(kind)
            ]
        )
    if isinstance(devices, str) or not devices:
        raise UsageError(f"devices is {devices!r}; expected names of TensorFlow devices")
    given = tuple(devices)
    links = (Link(given, float("inf")),) if len(set(given)) > 1 else ()
    cluster = Cluster("TensorFlow", tuple(Device(name, "unknown") for name in given), links)
    if workers:
        names = tuple(full_name(name) for name in device_names(cluster, None))
    else:
        names = present_devices(cluster, None)
    specs = [tf.DeviceSpec.from_string(name) for name in names]
    if workers:
        for name, spec in zip(names, specs, strict=True):
            if spec.job != "worker" or not 0 <= (spec.task or 0) < num_workers(workers):
                raise UsageError(
                    f"TensorFlow has no device {name!r} on {num_workers(workers)} workers; "
                    f"expected names such as {cpus_of(workers)[-1]!r}"
                )
    num_cpus = sum(spec.device_type == "CPU" for spec in specs)
    described = tuple(_describe(spec, workers, num_cpus) for spec in specs)
    if workers and not isinstance(workers, (int, LocalWorkers)) and given == (*cpus_of(workers),):
        described = tuple(
            replace(device, address=address)
            for device, address in zip(described, workers, strict=True)
        )
    return names, described


def _describe(spec: Any, workers: Workers, num_cpus: int) -> Device:
    kind, index = spec.device_type.lower(), spec.device_index
    name = f"{kind}:{index}"
    if workers:
        task = spec.task or 0
        name = f"worker:{task}" if name == "cpu:0" else f"worker:{task}/{name}"
        if isinstance(workers, (int, LocalWorkers)):
            share = workers.shares[task] if isinstance(workers, LocalWorkers) else 1.0
            model = f"{_cpu_model()}-core" + (f"-{share:g}" if share < 1 else "")
            return Device(name, kind, model, memory_bytes=_memory_bytes() / num_workers(workers))
        return Device(name, kind, name, memory_bytes=float("inf"))
    if kind == "cpu":
        return Device(name, kind, _cpu_model(), memory_bytes=_memory_bytes() / num_cpus)
    model, memory = _accelerator(spec)
    return Device(name, kind, model, memory_bytes=memory)


def _accelerator(spec: Any) -> tuple[str, float]:
    """Model and memory in bytes of a device of this process."""
    import tensorflow as tf
    from tensorflow.python.client import device_lib

    physical = tf.config.list_physical_devices(spec.device_type)
    details = tf.config.experimental.get_device_details(
        physical[min(spec.device_index, len(physical) - 1)]
    )
    limits = {
        full_name(found.name): found.memory_limit for found in device_lib.list_local_devices()
    }
    memory = limits.get(full_name(spec.to_string()), 0)
    model = details.get("device_name", spec.device_type)
    return _word(model), float(memory) if memory > 0 else float("inf")


@functools.cache
def _cpu_model() -> str:
    """The processor's name as one word."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return _word(found[1] if found else platform.processor() or platform.machine() or "cpu")


def _word(text: str) -> str:
    text = re.sub(r"\((?:r|tm)\)|\bcpu\b|@.*", " ", text.lower())
    return re.sub(r"[^a-z0-9.]+", "-", text).strip("-") or "unknown"


def _memory_bytes() -> float:
    """Memory of this machine, or the part that a container may use; ``inf`` if not known."""
    try:
        total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        total = float("inf")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    return min(total, float(limit)) if limit.isdecimal() else total
