"""A policy for any graph and any cluster: its weights know neither how many groups nor devices.

As Placeto (Addanki et al. 2019, arXiv 1906.08879) and GDP (Zhou et al. 2019, arXiv 1910.01578)
aim at. Message passing over the op groups, forward and backward, gives each group an embedding. A
decoder then places the groups one by one, longest remaining path first. What it sees of a device
is the group, the device, the group on the device, and what follows from the choices so far: a list
schedule of the groups already placed (as HEFT's, Topcuoglu et al., IEEE TPDS 13(3), 2002), in which
transfers queue. One small network scores each device by itself and by the mean of all, so that the
policy does not depend on how devices are numbered.

What follows from the choices so far depends on no weight: under teacher forcing it is worked out
outside the gradient, and all groups are scored at once.

Everything is a pure function of a flat dictionary of arrays, as in :mod:`policies.lstm_network`.
``group_bias``, the only array whose shape depends on the problem, may be absent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from policies.graph_inputs import (
    DEVICE_FEATURES,
    GROUP_FEATURES,
    PAIR_FEATURES,
    GraphInputs,
    graph_inputs,
)
from policies.networks import MASKED_LOGIT, Samples, Tensor, Weights

make_inputs = graph_inputs

NUM_ROUNDS = 3
"""Rounds of message passing."""

LEAN = 4.0
"""How sure list schedules are of the device where a group and what follows finish first."""

STATE_FEATURES = (
    "finish",  # the first four: how much later than where it is least
    "start",
    "arrival",
    "free",
    "finish_and_lookahead",
    "idle",  # how long the device would wait for the inputs
    "extends",  # by how much the schedule gets longer
    "transfers",  # time of all transfers of the inputs
    "traffic_here",  # share of the traffic with groups placed so far that needs no transfer
    "traffic_placed",  # share of all its traffic that is with groups placed so far
    "load",  # of the device, over what each would have if all groups were shared evenly
    "memory",  # share of the device's that is taken, with this group
    "used",  # whether anything is on the device
    "last",  # whether the last group went there
)
"""What the decoder sees of the choices so far, by name."""


def init_weights(
    rng: np.random.Generator, inputs: GraphInputs, hidden: int
) -> dict[str, NDArray[np.float32]]:
    """Fresh weights: Glorot-uniform, biases and output layer zero.

    With a zero output layer the untrained policy is exactly its prior.

    Args:
        rng: All randomness comes from it.
        inputs: Of the problem; only ``group_bias`` depends on its size.
        hidden: Units of each layer.
    """
    group_bias = np.zeros(inputs.allowed.shape, np.float32)
    return {**init_shared_weights(rng, hidden), "group_bias": group_bias}


def init_shared_weights(rng: np.random.Generator, hidden: int) -> dict[str, NDArray[np.float32]]:
    """Those of :func:`init_weights` that serve every problem."""

    def fresh(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if name == "output" or name.endswith("bias"):
            return np.zeros(shape, np.float32)
        limit = np.sqrt(6.0 / (shape[-2] + shape[-1]))
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    return {name: fresh(name, shape) for name, shape in weight_shapes(hidden).items()}


def list_schedule_weights(rng: np.random.Generator, hidden: int) -> dict[str, NDArray[np.float32]]:
    """Weights of a policy that samples list schedules.

    The output layer is zero but for the time at which the group and what is expected to follow it
    would be done: the less, the likelier.

    Args:
        rng: All randomness comes from it.
        hidden: Units of each layer.
    """
    weights = init_shared_weights(rng, hidden)
    weights["output"][hidden + STATE_FEATURES.index("finish_and_lookahead")] = -LEAN
    return weights


def weight_shapes(hidden: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights that serve every problem, by name.

    Args:
        hidden: Units of each layer.
    """
    return {
        "embed_features": (len(GROUP_FEATURES), hidden),
        "embed_bias": (hidden,),
        "message_self": (NUM_ROUNDS, hidden, hidden),
        "message_incoming": (NUM_ROUNDS, hidden, hidden),
        "message_outgoing": (NUM_ROUNDS, hidden, hidden),
        "message_bias": (NUM_ROUNDS, hidden),
        "embed_devices": (len(DEVICE_FEATURES), hidden),
        "device_bias": (hidden,),
        "pair_group": (hidden, hidden),
        "pair_graph": (hidden, hidden),
        "pair_device": (hidden, hidden),
        "pair_cluster": (hidden, hidden),
        "pair_features": (len(PAIR_FEATURES), hidden),
        "pair_state": (len(STATE_FEATURES), hidden),
        "pair_bias": (hidden,),
        "mix_own": (hidden, hidden),
        "mix_others": (hidden, hidden),
        "mix_bias": (hidden,),
        "output": (hidden + len(STATE_FEATURES), 1),
    }


def sample(weights: Weights, inputs: GraphInputs, noise: Tensor) -> Samples:
    """Draws choices from the policy by the Gumbel-max trick.

    Args:
        weights: Of the policy.
        inputs: Of the problem.
        noise: Standard Gumbel noise, ``[num_groups, batch, num_devices]``; the choices are a pure
            function of it.

    Returns:
        Choices and the log-probability of each, in the numbering of the groups.
    """
    noise = tf.gather(noise, inputs.order)
    encoding = tf.gather(_encode(weights, inputs), inputs.order)
    bias = tf.gather(_logit_bias(weights, inputs), inputs.order)

    def decide(step: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        logits = _logits(weights, inputs, encoding[step][None], state) + bias[step]
        log_probs = tf.nn.log_softmax(logits)
        choice = tf.argmax(log_probs + noise[step], axis=-1, output_type=tf.int32)
        return choice, tf.gather(log_probs, choice, batch_dims=1)

    batch = noise.shape[1]
    choices, log_probs = _walk(inputs, batch, decide, (tf.int32, []), (noise.dtype, []))
    return Samples(*(tf.transpose(_by_group(inputs, rows)) for rows in (choices, log_probs)))


def decisions(weights: Weights, inputs: GraphInputs, choices: Tensor) -> Tensor:
    """Log-probability of every device at every decision of given choices, by teacher forcing.

    Args:
        weights: Of the policy.
        inputs: Of the problem.
        choices: Device per op group, int32 ``[batch, num_groups]``.

    Returns:
        ``[batch, num_groups, num_devices]``.
    """
    batch, num_devices = choices.shape[0], inputs.allowed.shape[1]
    chosen = tf.gather(tf.transpose(choices), inputs.order)  # [num_groups, batch]

    def decide(step: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return chosen[step], state

    shape = [num_devices, len(STATE_FEATURES)]
    _, states = _walk(inputs, batch, decide, (tf.int32, []), (inputs.seconds.dtype, shape))
    encoding = _encode(weights, inputs)[:, None]
    logits = _logits(weights, inputs, encoding, _by_group(inputs, tf.stop_gradient(states)))
    log_probs = tf.nn.log_softmax(logits + _logit_bias(weights, inputs)[:, None])
    return tf.transpose(log_probs, [1, 0, 2])


def _by_group(inputs: GraphInputs, rows: Tensor) -> Tensor:
    """Rows in the order of decisions to rows in the numbering of the groups."""
    return tf.gather(rows, tf.argsort(inputs.order))


def _encode(weights: Weights, inputs: GraphInputs) -> Tensor:
    """What the score of a group on a device adds up from, choices aside.

    Returns:
        ``[num_groups, num_devices, hidden]``.
    """
    groups = tf.tanh(inputs.features @ weights["embed_features"] + weights["embed_bias"])
    for nth in range(NUM_ROUNDS):
        groups += tf.tanh(
            groups @ weights["message_self"][nth]
            + inputs.incoming @ (groups @ weights["message_incoming"][nth])
            + inputs.outgoing @ (groups @ weights["message_outgoing"][nth])
            + weights["message_bias"][nth]
        )
    devices = tf.tanh(inputs.device_features @ weights["embed_devices"] + weights["device_bias"])
    graph = tf.tensordot(inputs.work, groups, 1)  # [hidden]
    cluster = tf.tensordot(inputs.speed, devices, 1)
    of_group = (
        groups @ weights["pair_group"]
        + graph[None] @ weights["pair_graph"]
        + cluster[None] @ weights["pair_cluster"]
        + weights["pair_bias"]
    )
    of_device = devices @ weights["pair_device"]
    of_pair = tf.tensordot(inputs.pair_features, weights["pair_features"], 1)
    return of_group[:, None] + of_device + of_pair


def _logits(weights: Weights, inputs: GraphInputs, encoding: Tensor, state: Tensor) -> Tensor:
    """Scores devices.

    Args:
        weights: Of the policy.
        inputs: Of the problem.
        encoding: As :func:`_encode`, ``[..., num_devices, hidden]``.
        state: What follows from the choices so far, ``[..., num_devices, num_state_features]``.

    Returns:
        ``[..., num_devices]``.
    """
    own = tf.nn.relu(encoding + tf.tensordot(state, weights["pair_state"], 1))
    others = tf.reduce_sum(inputs.speed[:, None] * own, axis=-2, keepdims=True)
    mixed = tf.nn.relu(
        tf.tensordot(own, weights["mix_own"], 1)
        + tf.tensordot(others, weights["mix_others"], 1)
        + weights["mix_bias"]
    )
    scores = tf.tensordot(tf.concat([mixed, state], axis=-1), weights["output"], 1)
    return tf.squeeze(scores, -1)


def _logit_bias(weights: Weights, inputs: GraphInputs) -> Tensor:
    """Prior and learned bias where a device is allowed, next to nothing elsewhere."""
    bias = inputs.prior_logits
    if "group_bias" in weights:
        bias = bias + weights["group_bias"]  # += would change inputs that are NumPy arrays
    return tf.where(inputs.allowed, bias, tf.constant(MASKED_LOGIT, bias.dtype))


class _Group(NamedTuple):
    """What is known of a group, and of what it exchanges with all, in the order of decisions."""

    allowed: Tensor  # [num_devices]
    seconds: Tensor  # [num_devices]
    lookahead: Tensor  # [num_devices]
    memory: Tensor  # [num_devices]
    own: Tensor  # [2, num_groups]: tensors and bytes sent for the two of them alone
    shared: Tensor  # [2, num_groups]: tensors and bytes that it reads and others read, too


class _Schedule(NamedTuple):
    """A list schedule of the groups placed so far; all times are 0 where there is nothing."""

    placed: Tensor  # [num_groups, batch, num_devices]: 1 where a group is, by order of decisions
    there: Tensor  # [num_groups, batch, num_devices]: since when what groups share of it is there
    finish: Tensor  # [num_groups, batch]
    free: Tensor  # [batch, num_devices]: when a device gets free
    load: Tensor  # [batch, num_devices]: time of all groups there
    memory: Tensor  # [batch, num_devices]: share that is taken
    channels: Tensor  # [batch, num_devices ** 2]: when a channel gets free
    last: Tensor  # [batch, num_devices]: 1 where the last group is


class _Step(NamedTuple):
    """When a group could run, and where from its inputs would come."""

    transfers: Tensor  # [batch, source, num_devices]: time that inputs from a source take
    arrivals: Tensor  # [batch, source, num_devices]: when inputs from a source are on a device
    start: Tensor  # [batch, num_devices]
    finish: Tensor  # [batch, num_devices]


def _walk(
    inputs: GraphInputs,
    batch: int,
    decide: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    *outputs: tuple[tf.DType, list[int]],
) -> list[Tensor]:
    """Places all groups, one by one.

    Args:
        inputs: Of the problem.
        batch: How many placements at once.
        decide: From the number of the decision and the state features ``[batch, num_devices,
            num_state_features]`` to a choice ``[batch]`` and anything else to keep.
        outputs: Element types and shapes, without the batch, of what `decide` returns.

    Returns:
        What `decide` returned, ``[num_groups, batch, ...]`` each, by order of decisions.
    """
    num_groups, num_devices = inputs.allowed.shape
    dtype = inputs.seconds.dtype

    def exchanged(tensors: Tensor, num_bytes: Tensor) -> Tensor:
        rows = tf.gather(tf.stack([tensors, num_bytes], axis=1), inputs.order)
        return tf.gather(rows, inputs.order, axis=2)  # [num_groups, 2, num_groups]

    groups = _Group(
        allowed=tf.gather(inputs.allowed, inputs.order),
        seconds=tf.gather(inputs.seconds, inputs.order),
        lookahead=tf.gather(inputs.lookahead, inputs.order),
        memory=tf.gather(inputs.memory, inputs.order),
        own=exchanged(inputs.own_tensors, inputs.own_bytes),
        shared=exchanged(inputs.shared_tensors, inputs.shared_bytes),
    )
    fastest = tf.reduce_min(
        tf.where(inputs.allowed, inputs.seconds, tf.constant(np.inf, dtype)), axis=1
    )
    even_load = tf.reduce_sum(fastest) * tf.reduce_max(inputs.speed)
    nothing = tf.zeros([batch, num_devices], dtype)
    nowhere = tf.zeros([num_groups, batch, num_devices], dtype)
    schedule = _Schedule(
        placed=nowhere,
        there=nowhere,
        finish=tf.zeros([num_groups, batch], dtype),
        free=nothing,
        load=nothing,
        memory=nothing,
        channels=tf.zeros([batch, num_devices**2], dtype),
        last=nothing,
    )
    kept = tuple(
        tf.TensorArray(of, num_groups, element_shape=[batch, *shape]) for of, shape in outputs
    )

    def body(
        step: Tensor, schedule: _Schedule, kept: tuple[tf.TensorArray, ...]
    ) -> tuple[Tensor, _Schedule, tuple[tf.TensorArray, ...]]:
        group = _Group(*(array[step] for array in groups))
        seen, state = _look(inputs, schedule, group, even_load)
        decided = decide(step, state)
        kept = tuple(array.write(step, value) for array, value in zip(kept, decided, strict=True))
        return step + 1, _advance(inputs, schedule, group, seen, step, decided[0]), kept

    _, _, kept = tf.while_loop(
        lambda step, *_: step < num_groups,
        body,
        (tf.constant(0), schedule, kept),
        maximum_iterations=num_groups,
    )
    return [array.stack() for array in kept]


def _look(
    inputs: GraphInputs, schedule: _Schedule, group: _Group, even_load: Tensor
) -> tuple[_Step, Tensor]:
    """When the next group could start on each device, and all else that is seen of that.

    Args:
        inputs: Of the problem.
        schedule: Of the groups placed so far.
        group: The next.
        even_load: Time of each device if all groups were shared evenly.

    Returns:
        The step, and the features ``[batch, num_devices, num_state_features]``.
    """
    # what it exchanges with groups on each device
    of_all = tf.concat([group.own, group.own + group.shared], axis=0)
    own_tensors, own_bytes, num_tensors, num_bytes = tf.unstack(
        tf.einsum("rg,gbs->rbs", of_all, schedule.placed)
    )
    missing = tf.cast(schedule.there == 0, schedule.placed.dtype)
    of_shared = group.shared[:, :, None, None] * schedule.placed
    shared_tensors, shared_bytes = tf.unstack(tf.einsum("rgbs,gbd->rbsd", of_shared, missing))
    transfers = (own_tensors[:, :, None] + shared_tensors) * inputs.latency + (
        own_bytes[:, :, None] + shared_bytes
    ) * inputs.time_per_byte  # [batch, source, target]; 0 where they are the same
    # when it is made, and when it is there
    exchanges = (group.own[0] + group.shared[0])[:, None] > 0
    made = tf.where(exchanges, schedule.finish, 0)[:, :, None]
    ready = tf.reduce_max(schedule.placed * made, axis=0)[:, :, None]  # [batch, source, 1]
    channel_free = tf.gather(schedule.channels, inputs.channels, axis=1)
    queued = tf.where(inputs.queues, channel_free, 0)
    sent = tf.where(transfers > 0, tf.maximum(ready, queued) + transfers, ready)
    arrivals = tf.where(num_tensors[:, :, None] > 0, sent, 0)
    is_read = group.shared[0][:, None, None] > 0
    sent_before = tf.reduce_max(tf.where(is_read, schedule.there, 0), axis=0)
    arrival = tf.maximum(tf.reduce_max(arrivals, axis=1), sent_before)  # [batch, num_devices]
    start = tf.maximum(arrival, schedule.free)
    finish = start + group.seconds
    end = tf.reduce_max(schedule.finish, axis=0)[:, None]

    def beyond_least(times: Tensor) -> Tensor:
        possible = tf.where(group.allowed, times, tf.constant(np.inf, times.dtype))
        return tf.maximum(times - tf.reduce_min(possible, axis=1, keepdims=True), 0)

    bytes_placed = tf.reduce_sum(num_bytes, axis=1, keepdims=True)
    part_placed = tf.math.divide_no_nan(bytes_placed, tf.reduce_sum(of_all[3]))
    features = [
        tf.math.log1p(beyond_least(finish)),
        tf.math.log1p(beyond_least(start)),
        tf.math.log1p(beyond_least(arrival)),
        tf.math.log1p(beyond_least(schedule.free)),
        tf.math.log1p(beyond_least(finish + group.lookahead)),
        tf.math.log1p(tf.maximum(arrival - schedule.free, 0)),
        tf.math.log1p(tf.maximum(finish - end, 0)),
        tf.math.log1p(tf.reduce_sum(transfers, axis=1)),
        tf.math.divide_no_nan(num_bytes, bytes_placed),
        tf.broadcast_to(part_placed, finish.shape),
        tf.math.log1p(schedule.load / even_load),
        tf.minimum(schedule.memory + group.memory, 2),
        tf.cast(schedule.load > 0, finish.dtype),
        schedule.last,
    ]
    return _Step(transfers, arrivals, start, finish), tf.stack(features, axis=-1)


def _advance(
    inputs: GraphInputs,
    schedule: _Schedule,
    group: _Group,
    seen: _Step,
    step: Tensor,
    choice: Tensor,
) -> _Schedule:
    """The schedule with the next group on a device ``[batch]``."""
    batch, num_devices = schedule.last.shape
    chosen = tf.one_hot(choice, num_devices, dtype=schedule.last.dtype)
    finish = tf.reduce_sum(chosen * seen.finish, axis=1)
    busy_until = seen.start + group.seconds / inputs.slots
    # its inputs have the channels that they come through until they are there
    ends = tf.reduce_sum(chosen[:, None] * seen.arrivals, axis=2)  # [batch, source]
    sent = tf.reduce_sum(chosen[:, None] * seen.transfers, axis=2) > 0
    queue = tf.gather(tf.transpose(inputs.queues), choice) & sent
    channels = tf.gather(tf.transpose(inputs.channels), choice)  # [batch, source]
    rows = tf.broadcast_to(tf.range(batch)[:, None], channels.shape)
    is_read = group.shared[0][:, None, None] > 0
    since = tf.einsum("gbs,bs->gb", schedule.placed, ends)[:, :, None]
    is_new = is_read & (schedule.there == 0) & (chosen > 0)
    return _Schedule(
        placed=tf.tensor_scatter_nd_update(schedule.placed, [[step]], chosen[None]),
        there=tf.where(is_new, since, schedule.there),
        finish=tf.tensor_scatter_nd_update(schedule.finish, [[step]], finish[None]),
        free=tf.where(chosen > 0, busy_until, schedule.free),
        load=schedule.load + chosen * group.seconds,
        memory=schedule.memory + chosen * group.memory,
        channels=tf.tensor_scatter_nd_max(
            schedule.channels, tf.stack([rows, channels], axis=-1), tf.where(queue, ends, 0)
        ),
        last=chosen,
    )
