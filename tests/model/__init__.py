"""Histories of many clients, and whether one key in one place could have given them."""
