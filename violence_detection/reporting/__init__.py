"""What people look at: report, plots, TensorBoard, trackers."""
