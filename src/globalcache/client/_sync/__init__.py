"""The cache for tasks, from which the one for threads is made."""
