"""One file for each library that can run a stage; each offers `open_graph`."""
