"""From a folder of videos to the images that the network is given."""

import os

# OpenCV reads these when it is first imported. FFmpeg would print several lines on the terminal
# for every damaged clip, which the program reports itself.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
