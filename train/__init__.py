"""A drawn world in, a checkpoint out: data, losses, recipes and evaluation."""
