"""How fast, how old and how dear: bundles in turns, and streams open-loop."""
