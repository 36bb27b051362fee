"""The verbs that draw, train and score."""
