"""Faults: what the server and its clients survive on one machine."""
