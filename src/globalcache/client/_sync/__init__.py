"""The cache for threads, made from the one for tasks by scripts/unasync.py."""
