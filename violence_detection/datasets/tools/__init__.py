"""What annotation tools export: CVAT, Label Studio, FiftyOne and the VGG Image Annotator (VIA)."""
