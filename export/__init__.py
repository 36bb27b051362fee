"""Export: a checkpoint in, a bundle of traced and verified graphs out."""
