"""Training, calibrating and measuring the entity linker."""
