"""Tests of globalcache.contrib."""
