"""The study of a search: what it leaves, where Optuna keeps it, and what stops its trials."""
