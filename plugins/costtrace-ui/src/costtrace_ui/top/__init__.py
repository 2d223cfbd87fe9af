"""`costtrace top`: the node as it is now, on a terminal."""
