"""The small files by which the engines of a node and its agent inform each other."""
