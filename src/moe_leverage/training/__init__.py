"""One training run: schedule, step, loop, checkpoint, evaluation, machine."""
