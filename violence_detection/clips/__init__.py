"""From a folder of videos to the pictures that the network is shown."""
