"""Devices, distributed processes, model downloads and experiment tracking. Knows no task."""
