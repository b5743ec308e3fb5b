"""Settings, runs, files, errors, subprocesses and console output. Knows no task and imports no torch."""
