"""Compiled code of the simulator. Import its modules on first use only: they bring numba."""
