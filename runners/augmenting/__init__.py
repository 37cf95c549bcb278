"""Changes of training images, on the device, in the step; what each draws is a function of counters."""
