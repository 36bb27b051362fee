"""The networks of the published systems, one file each, under their checkpoints' own names."""
