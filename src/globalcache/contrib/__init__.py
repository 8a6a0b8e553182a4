"""The cache where people are: frameworks and test tools. Nothing here is loaded unless it is imported by name."""
