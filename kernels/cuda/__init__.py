"""The ops in CUDA C, without includes: compiled by NVRTC, run by a GPU or by the PTX machine."""
