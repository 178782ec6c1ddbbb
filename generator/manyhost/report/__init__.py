"""From results to sentences: reports, their cost, and comparisons. Reads result files and nothing else."""
