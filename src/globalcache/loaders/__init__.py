"""Workers that load what clients miss: Python functions and SQL queries behind patterns of keys."""
