"""From the command line to the runs of a sweep."""
