"""Policies that place op groups on devices, and their training by REINFORCE.

TensorFlow is imported with :mod:`policies.networks` and :mod:`policies.reinforce`, not here.
"""
