"""What happens to an image on its way: detection, crops, poses."""
