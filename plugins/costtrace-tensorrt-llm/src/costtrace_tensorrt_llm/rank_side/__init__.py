"""What runs in a rank's process, on the executor's thread and beside it."""
