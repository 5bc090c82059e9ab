"""From a folder of videos to the images that the network is given."""

import os

# OpenCV reads these when it is first imported; it would print FFmpeg's notes on the terminal.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
