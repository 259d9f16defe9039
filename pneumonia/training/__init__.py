"""How a network learns: settings, the loop, and what it needs from the device."""
