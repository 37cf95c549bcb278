"""What goes in: data sets, resident on the device."""
