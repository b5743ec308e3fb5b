"""Rooms and ground floor of the workbench; the scripts beside this folder are the programs."""
