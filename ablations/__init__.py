"""DetNet ablations: the jobs that train, evaluate and record backbone variants."""
