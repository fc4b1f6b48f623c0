"""The ops on a CPU, compiled by Numba: the definition's numbers at the speed of the memory."""
