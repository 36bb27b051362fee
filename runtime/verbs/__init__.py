"""The verbs that segment, inspect and time."""
