"""From the readings of a device's counter to the energy of its steps and of its idle time."""
