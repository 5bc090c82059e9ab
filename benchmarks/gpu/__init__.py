"""What holds a box with GPUs up, measured with any of Keras's backends."""
